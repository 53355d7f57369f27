-- requeue_dead: remove a dead letter and, for a retry, requeue its task or restore its record.
--
-- ARGV 1 position counted from the oldest  2 digest of the letter expected there  3 'retry' or 'drop'
--      4 user:task_id its reply is kept under, '' for none  5 error reply to keep there  6 ttl_ms
--      7 kind of its body: task | entry | turn | journal; any other kind cannot be retried
--      8 lane of a task or entry  9 seq and 10 first_ms of a task, '' if the letter does not name them
--      11 idempotency key of the task, '' if the letter does not name it
-- Returns 1; 0 if another letter is at this position by now; 2 if this release cannot read the record.
--
-- A task returns to its lane under its own number and counts as a redelivery, so that the bridge searches Letta for it
-- first. Its stored error reply is deleted or, if the task has the key of an earlier one, replaced by one with that key.
-- A letter of an older bridge has no number: its payload goes to the request list, and a retryable error replaces the
-- stored reply. The reply to another task with the same id stays.

local position, digest, kept_under, kind, lane = -tonumber(ARGV[1]), ARGV[2], ARGV[4], ARGV[7], ARGV[8]
local key = ARGV[11]

local letter = redis.call('LINDEX', DEAD, position)
if not letter or letter_digest(letter) ~= digest then
    return 0
end

local function left_an_error()
    local kept = kept_under ~= '' and redis.pcall('GET', REPLY .. kept_under)
    if type(kept) ~= 'string' then
        return kept_under ~= ''
    end
    local readable, reply = pcall(cjson.decode, kept)
    return readable and type(reply) == 'table' and reply.error == true
        and (key == '' or reply.idempotency_key == nil or reply.idempotency_key == key)
end

local function keep_error()
    redis.call('SET', REPLY .. kept_under, ARGV[5], 'PX', ARGV[6])
end

-- `taken` rises because the task was counted as settled when it became a letter.
local function take_again(to, seq, first_ms, payload)
    redis.call('HINCRBY', COUNTERS, 'taken', 1)
    count_open(tenth_of(first_ms), 1)
    enqueue(to, join_entry(seq, '01', first_ms, payload))
    return true
end

local function retry_task(payload)
    if ARGV[9] == '' then
        if left_an_error() then
            keep_error()
        end
        redis.call('LPUSH', REQUESTS, payload)
        return true
    end
    if left_an_error() then
        if key == '' or key == ARGV[9] .. '-' .. ARGV[10] then
            redis.call('DEL', REPLY .. kept_under)
        else
            keep_error()
        end
    end
    return take_again(lane, ARGV[9], ARGV[10], payload)
end

local function retry_entry(to, entry)
    local seq, _, first_ms, payload = split_entry(entry)
    return seq and take_again(to, seq, first_ms, payload)
end

local function retry_turn(record)
    local _, its_lane, entry = split_turn(record)
    return entry and retry_entry(its_lane, entry)
end

local function retry_journal(record)
    local turn, reply = string.match(record, '^([^\n]*)\n(.*)$')
    local readable, said = pcall(cjson.decode, turn or '')
    if readable and type(said) == 'table' and (said.v or 1) == 1 then
        return add_to_journal(turn, reply)
    end
end

if ARGV[3] == 'retry' then
    local line_end = string.find(letter, '\n', 1, true)
    local body = line_end and string.sub(letter, line_end + 1)
    local done = body and (kind == 'task' and retry_task(body)
        or kind == 'entry' and retry_entry(lane, body)
        or kind == 'turn' and retry_turn(body)
        or kind == 'journal' and retry_journal(body))
    if not done then
        return 2
    end
end
redis.call('LSET', DEAD, position, 'removed ' .. digest)
redis.call('LREM', DEAD, -1, 'removed ' .. digest)
return 1
