-- renew: extend the leases of turns in flight.
--
-- ARGV 1 lease_ms  2… receipts
-- Returns the receipts that are no longer in flight: another bridge has those turns.

local deadline = now_ms() + tonumber(ARGV[1])
local lost = {}
for index = 2, #ARGV do
    if redis.call('HEXISTS', TURNS, ARGV[index]) == 1 then
        redis.call('ZADD', LEASES, deadline, ARGV[index])
    else
        lost[#lost + 1] = ARGV[index]
    end
end
return lost
