-- forget: drop waiting tasks of a user; a turn in flight is left alone. Repeating it drops what is left.
--
-- ARGV 1 lane  2 tasks dropped at most, the oldest first; 0 where entries follow  3 outcome that they are counted as
--      4… entries: only these are dropped
-- Returns the entries that were dropped, fewer where they come to more than DROPPED_BYTES; none only where none is left.

local lane, most = ARGV[1], tonumber(ARGV[2])
local DROPPED_BYTES = 4194304
local dropped, bytes = {}, 0
while #dropped < most and bytes < DROPPED_BYTES do
    local entry = redis.call('RPOP', LANE .. lane)
    if not entry then
        break
    end
    dropped[#dropped + 1] = entry
    bytes = bytes + #entry
end
for index = 4, #ARGV do
    if redis.call('LREM', LANE .. lane, 1, ARGV[index]) == 1 then
        dropped[#dropped + 1] = ARGV[index]
    end
end
if #dropped > 0 then
    close_entries(dropped)
    redis.call('HINCRBY', COUNTERS, 'settled:' .. ARGV[3], #dropped)
    if redis.call('EXISTS', LANE .. lane) == 0 then
        redis.call('LREM', READY, 0, lane)
    end
end
return dropped
