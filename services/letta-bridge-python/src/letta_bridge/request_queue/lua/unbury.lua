-- unbury: remove a dead letter, and put its payload back on the request list if it is to be tried again.
--
-- ARGV 1 position counted from the oldest  2 SHA-1 of the letter expected there
--      3 'retry' or 'drop'
--      4 user:task_id its reply is kept under, '' for none  5 error reply to keep there  6 ttl_ms
-- Returns 1, or 0 where another letter lies there by now.
--
-- The dead task left an error reply, with which a repeated task id is answered at once. The one kept instead says that
-- a second try may mend it; the bridge then looks in Letta first, in case an earlier hand-out got through.

local position = -tonumber(ARGV[1])
local letter = redis.call('LINDEX', DEAD, position)
if not letter or redis.sha1hex(letter) ~= ARGV[2] then
    return 0
end
redis.call('LSET', DEAD, position, 'removed ' .. ARGV[2])
redis.call('LREM', DEAD, -1, 'removed ' .. ARGV[2])
if ARGV[3] ~= 'retry' then
    return 1
end

if ARGV[4] ~= '' then
    local kept = redis.call('GET', REPLY .. ARGV[4])
    local readable, reply = pcall(cjson.decode, kept or '{"error":true}')
    if readable and type(reply) == 'table' and reply.error == true then
        redis.call('SET', REPLY .. ARGV[4], ARGV[5], 'PX', ARGV[6])
    end
end
local line = string.find(letter, '\n', 1, true) or #letter
redis.call('LPUSH', REQUESTS, string.sub(letter, line + 1))
return 1
