-- capacity: Redis's memory and disk status, and the age of the oldest turn that is not journalled.
-- Changes nothing. On a Cluster this is the node that serves the queue.
--
-- Returns {now_ms, id of the journal's oldest entry, INFO memory, INFO persistence}; what is refused or missing is ''.

local function info(section)
    -- A missing right omits these figures only, not the whole status.
    local told = redis.pcall('INFO', section)
    return type(told) == 'string' and told or ''
end

local oldest = redis.pcall('XRANGE', JOURNAL, '-', '+', 'COUNT', 1)
local id = not oldest.err and oldest[1] and oldest[1][1] or ''

return { now_ms(), id, info('memory'), info('persistence') }
