-- probe: whether the queue's scripts can run, and if not, which key prevents it. Changes nothing.
--
-- Returns 1, or the error that the scripts would get; an error about a key of the wrong type names the key.

local READS = {
    { 'LLEN', REQUESTS, 'list' }, { 'LLEN', INCOMING, 'list' }, { 'HLEN', LANES, 'hash' }, { 'LLEN', READY, 'list' },
    { 'HLEN', TURNS, 'hash' }, { 'ZCARD', LEASES, 'sorted set' }, { 'XLEN', REPLIES, 'stream' },
    { 'LLEN', DEAD, 'list' }, { 'HLEN', COUNTERS, 'hash' }, { 'ZCARD', BRIDGES, 'sorted set' },
    { 'HLEN', PAUSED, 'hash' }, { 'XLEN', JOURNAL, 'stream' }, { 'GET', JOURNAL_WRITER, 'text' },
    { 'HLEN', CHOICES, 'hash' },
}

local function failed(result)
    return type(result) == 'table' and result.err
end

for _, read in ipairs(READS) do
    local result = redis.pcall(read[1], read[2])
    if failed(result) and string.find(result.err, 'WRONGTYPE', 1, true) then
        return redis.error_reply('WRONGTYPE the key ' .. read[2] .. ' is no ' .. read[3])
    elseif failed(result) then
        return result
    end
end
-- This write fails like any other on a full Redis, a replica or a full disk. Its key, of no user and no task, does not
-- exist, so nothing is written.
local written = redis.pcall('SET', REPLY .. 'probe', '', 'XX')
return failed(written) and written or 1
