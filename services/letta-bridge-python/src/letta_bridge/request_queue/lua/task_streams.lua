-- Task streams: the events of a turn, for who listens while the agent speaks. Prepended to scripts that write them.
--
-- An entry has the id "<seq>-1" and the fields
--   event  JSON, as it is published: {"v":1,"seq":<seq>,...
--   by     "<receipt> <n>": the hand-out that wrote it, and the how manieth of that hand-out's events it is
-- `seq` counts from 0 without a hole, over all hand-outs of the task; XREAD from "<seq>-1" returns what came after it.

local EVENT_BEGIN = '{"v":1,"seq":'

-- The last entry of a stream: its seq, -1 where there is none; the receipt that wrote it and that one's count; the event.
local function last_event(key)
    local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    if not last then
        return -1, '', 0, ''
    end
    local values = {}
    for at = 1, #last[2], 2 do
        values[last[2][at]] = last[2][at + 1]
    end
    local receipt, count = string.match(values.by or '', '^(%S+) (%d+)$')
    return tonumber(string.match(last[1], '^%d+')), receipt or '', tonumber(count or 0), values.event or ''
end

-- Whether an event ends its stream.
local function is_last(event)
    return string.find(event, '"type":"end"', 1, true) ~= nil or string.find(event, '"type":"error"', 1, true) ~= nil
end

local function is_interrupt(event)
    return string.find(event, '"type":"interrupted"', 1, true) ~= nil
end

local function lines_of(text)
    local lines = {}
    for line in string.gmatch(text, '[^\n]+') do
        lines[#lines + 1] = line
    end
    return lines
end

local function add_event(key, seq, event, receipt, count, channel, longest)
    event = EVENT_BEGIN .. string.format('%d', seq) .. ',' .. string.sub(event, 2)
    redis.call('XADD', key, 'MAXLEN', '~', longest, string.format('%d-1', seq), 'event', event, 'by', receipt .. ' ' .. count)
    redis.call('PUBLISH', channel, event)
end

-- Adds events of a hand-out, of which `events` begins with number `first` (from 1), except those that are there already;
-- all of them where `first` is 0. Returns how many of the hand-out's events are stored; fewer than `first` - 1, and nothing
-- added, where Redis lost some.
local function add_events(key, receipt, first, events, channel, ttl_ms, longest)
    local seq, writer, stored = last_event(key)
    if writer ~= receipt then
        stored = 0
    end
    if stored < first - 1 then
        return stored
    end
    for index = first == 0 and 1 or stored - first + 2, #events do
        seq, stored = seq + 1, stored + 1
        add_event(key, seq, events[index], receipt, stored, channel, longest)
    end
    redis.call('PEXPIRE', key, ttl_ms)
    return stored
end
