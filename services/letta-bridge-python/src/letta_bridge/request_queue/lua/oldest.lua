-- oldest: the time at which the oldest unsettled task was taken; reads no payloads.
--
-- Every script that takes or ends tasks updates `open`; bridges of older releases do not. Tasks that they ended become
-- the oldest eventually; `open` then counts more tasks than exist, and the surplus is dropped. If that removes a task
-- that still waits, the surplus is corrected when that task ends.
--
-- Returns {now_ms, first_ms of the oldest to a tenth of a second, or ''}.

local counters = redis.call('HGETALL', COUNTERS)
local unsettled = 0
for index = 1, #counters, 2 do
    if counters[index] == 'taken' then
        unsettled = unsettled + tonumber(counters[index + 1])
    elseif string.sub(counters[index], 1, 8) == 'settled:' then
        unsettled = unsettled - tonumber(counters[index + 1])
    end
end

local open = redis.call('HGETALL', OPEN)
local tenths, surplus = {}, -math.max(0, unsettled)
for index = 1, #open, 2 do
    tenths[#tenths + 1] = { tonumber(open[index]), tonumber(open[index + 1]) }
    surplus = surplus + tonumber(open[index + 1])
end
table.sort(tenths, function(one, other) return one[1] < other[1] end)

local oldest = ''
for _, tenth in ipairs(tenths) do
    local dropped = math.min(math.max(0, surplus), tenth[2])
    if dropped > 0 then
        count_open(string.format('%d', tenth[1]), -dropped)
        surplus = surplus - dropped
    end
    if tenth[2] > dropped then
        oldest = string.format('%d', tenth[1] * 100)
        break
    end
end
return { now_ms(), oldest }
