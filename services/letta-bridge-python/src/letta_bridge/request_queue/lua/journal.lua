-- journal: remove the turns that are written, and return the oldest others to the one bridge that writes them.
-- Idempotent: a turn that is returned twice is written once, by its id.
--
-- ARGV 1 bridge  2 lease_ms, 0 to let another bridge write from now on  3 turns wanted
--      4 number of records to set aside  then id and code (newer_record | unreadable_record) of each
--      then the ids of the turns that are in the database
-- Returns {1 if this bridge writes, else 0; turns waiting; turns ever dropped because the backlog was full;
--          {{id, turn, reply}, …}}, oldest first, limited to BATCH_BYTES.

local bridge, lease_ms, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local PAGE, BATCH_BYTES = 20, 4194304
local FIRST_WRITTEN = 5 + 2 * tonumber(ARGV[4])

local function fields_of(entry)
    local fields = {}
    for at = 1, #entry[2], 2 do
        fields[entry[2][at]] = entry[2][at + 1]
    end
    return entry[1], fields.turn or '', fields.reply or ''
end

for index = 5, FIRST_WRITTEN - 1, 2 do
    for _, entry in ipairs(redis.call('XRANGE', JOURNAL, ARGV[index], ARGV[index])) do
        local id, turn, reply = fields_of(entry)
        local readable, said = pcall(cjson.decode, turn)
        local user = readable and type(said) == 'table' and type(said.user_id) == 'string' and said.user_id
        set_aside('journal', ARGV[index + 1], user and user_lane(user), turn .. '\n' .. reply)
        remove_from_journal(id, turn, reply)
    end
end
for index = FIRST_WRITTEN, #ARGV do
    for _, entry in ipairs(redis.call('XRANGE', JOURNAL, ARGV[index], ARGV[index])) do
        remove_from_journal(fields_of(entry))
    end
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
if mine and lease_ms > 0 then
    local start, bytes = '-', 0
    while #turns < want and bytes < BATCH_BYTES do
        local page = redis.call('XRANGE', JOURNAL, start, '+', 'COUNT', math.min(PAGE, want - #turns))
        for _, entry in ipairs(page) do
            local id, turn, reply = fields_of(entry)
            turns[#turns + 1] = { id, turn, reply }
            start, bytes = '(' .. id, bytes + #turn + #reply
        end
        if #page == 0 then
            break
        end
    end
end
return { mine and 1 or 0, redis.call('XLEN', JOURNAL), redis.call('HGET', COUNTERS, 'journal_dropped') or '0', turns }
