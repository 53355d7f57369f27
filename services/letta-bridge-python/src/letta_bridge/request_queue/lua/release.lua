-- release: return turns that were not started to the head of their lanes; no attempt is counted.
--
-- ARGV 1 bridge  2… receipts
-- Returns how many were released.

local released = 0
for index = 2, #ARGV do
    local record = redis.call('HGET', TURNS, ARGV[index])
    if record and is_of(record, ARGV[1]) then
        give_back(ARGV[index], record, 1)
        released = released + 1
    end
end
return released
