-- capacity: what this server says of its memory and its disk, and how old the oldest turn is that the journal lacks.
-- Changes nothing. On a Cluster this is the node that serves the queue.
--
-- Returns {now_ms, id of the journal's oldest entry, INFO memory, INFO persistence}; what is refused or missing is ''.

local function info(section)
    -- A right that is missing costs these figures, not the whole status.
    local told = redis.pcall('INFO', section)
    return type(told) == 'string' and told or ''
end

local oldest = redis.pcall('XRANGE', JOURNAL, '-', '+', 'COUNT', 1)
local id = not oldest.err and oldest[1] and oldest[1][1] or ''

return { now_ms(), id, info('memory'), info('persistence') }
