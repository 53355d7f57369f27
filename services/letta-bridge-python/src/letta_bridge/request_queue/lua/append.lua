-- append: add events of turns in flight to the streams of their tasks, and publish them.
--
-- ARGV 1 bridge  2 ttl_ms of a stream  3 events it keeps  and then, for each turn,
--      receipt, user:task_id, channel, number of the first event (from 1), the events, a line of JSON each
-- Returns for each turn how many of its events are stored, a code (below), {INTERRUPTED, the interrupt's request}, or its
--      error.

local bridge, ttl_ms, longest = ARGV[1], ARGV[2], ARGV[3]
local FIRST, FIELDS = 4, 5
-- Codes that request_queue/redis_queue.py reads.
local TAKEN_OVER, FORGOTTEN, INTERRUPTED = -1, -2, -3

local function append(receipt, task, channel, first, events)
    local record = redis.call('HGET', TURNS, receipt)
    if not record then
        return forgotten(bridge, receipt) and FORGOTTEN or TAKEN_OVER
    end
    if not is_of(record, bridge) then
        return TAKEN_OVER
    end
    local _, _, entry = split_turn(record)
    local request = any_interrupts and interrupt_request(task, number_of(entry or ''))
    if request then
        return { INTERRUPTED, request }
    end
    return add_events(STREAM .. task, receipt, tonumber(first), lines_of(events), channel, ttl_ms, longest)
end

return results_of_groups(FIRST, FIELDS, append)
