-- journal: forget the turns that are written, and hand the oldest others to the one bridge that writes them.
-- Repeating it is harmless: a turn that is handed out twice is written once, by its id.
--
-- ARGV 1 bridge  2 lease_ms, 0 to let another bridge write from now on  3 turns wanted
--      4… ids of turns that are in the database
-- Returns {1 where this bridge writes or 0, turns waiting, turns left out since ever for want of room,
--          {{id, turn, reply}, …}}, oldest first.

local bridge, lease_ms, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for index = 4, #ARGV do
    redis.call('XDEL', JOURNAL, ARGV[index])
end

local writer = redis.call('GET', JOURNAL_WRITER)
local mine = not writer or writer == bridge
if mine and lease_ms > 0 then
    redis.call('SET', JOURNAL_WRITER, bridge, 'PX', lease_ms)
    redis.call('HINCRBY', COUNTERS, 'journal_looks', 1)
elseif writer == bridge then
    redis.call('DEL', JOURNAL_WRITER)
end

local turns = {}
if mine and lease_ms > 0 and want > 0 then
    for index, entry in ipairs(redis.call('XRANGE', JOURNAL, '-', '+', 'COUNT', want)) do
        local fields = {}
        for at = 1, #entry[2], 2 do
            fields[entry[2][at]] = entry[2][at + 1]
        end
        turns[index] = { entry[1], fields.turn or '', fields.reply or '' }
    end
end
return { mine and 1 or 0, redis.call('XLEN', JOURNAL), redis.call('HGET', COUNTERS, 'journal_dropped') or '0', turns }
