-- renew: extend the leases of turns in flight.
--
-- ARGV 1 lease_ms  2 bridge  3… receipts
-- Returns {receipts whose turns another bridge has or has settled, receipts whose hand-outs Redis has lost}.

local deadline, bridge = now_ms() + tonumber(ARGV[1]), ARGV[2]
local lost, unknown = {}, {}
for index = 3, #ARGV do
    local receipt = ARGV[index]
    local record = redis.call('HGET', TURNS, receipt)
    if record and is_of(record, bridge) then
        redis.call('ZADD', LEASES, deadline, receipt)
    elseif not record and forgotten(bridge, receipt) then
        unknown[#unknown + 1] = receipt
    else
        lost[#lost + 1] = receipt
    end
end
return { lost, unknown }
