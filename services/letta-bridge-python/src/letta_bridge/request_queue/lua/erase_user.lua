-- erase_user: drop waiting tasks of a user; a turn in flight is left alone. Repeating it drops what is left.
--
-- ARGV 1 lane  2 tasks dropped at most, the oldest first; 0 where entries follow  3 outcome that they are counted as
--      4… entries: only these are dropped
-- If they end with an error, tasks with an earlier hand-out stay, because Letta or memory-python may have them.
-- Returns the dropped entries, limited to DROPPED_BYTES; none only if none is left.

local lane, most = ARGV[1], tonumber(ARGV[2])
local DROPPED_BYTES = 4194304
local dropped, left, bytes = {}, {}, 0

local function is_begun(entry)
    local seq, attempts = split_entry(entry)
    return seq and tonumber(attempts) > 0
end

while #dropped < most and bytes < DROPPED_BYTES do
    local entry = redis.call('RPOP', LANE .. lane)
    if not entry then
        break
    end
    if ARGV[3] == 'error' and is_begun(entry) then
        left[#left + 1] = entry
    else
        dropped[#dropped + 1] = entry
        bytes = bytes + #entry
    end
end
for index = #left, 1, -1 do
    redis.call('RPUSH', LANE .. lane, left[index])
end
for index = 4, #ARGV do
    if not (ARGV[3] == 'error' and is_begun(ARGV[index])) and redis.call('LREM', LANE .. lane, 1, ARGV[index]) == 1 then
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
