-- Remember messages in one list, newest first, each once, and tell so.
-- KEYS[1] list of messages   KEYS[2] seen: zset message id -> Redis time in seconds
-- ARGV[1] limit of the list  ARGV[2] its ttl in seconds, 0 for none  ARGV[3] window of seen in seconds
-- ARGV[4] channel, '' for none
-- ARGV[5..] message id, record, update ('' for none), oldest message first
-- Returns the list's length, then for each message 1 (stored) or 0 (was stored before).
local KEEP_SEEN = 10000
-- Fails before anything is written where a stranger's key of another type is in the way.
redis.call('LLEN', KEYS[1])
local now = tonumber(redis.call('TIME')[1])
local answer = { 0 }
local stored = false
for i = 5, #ARGV, 3 do
  if redis.call('ZADD', KEYS[2], 'NX', now, ARGV[i]) == 1 then
    redis.call('LPUSH', KEYS[1], ARGV[i + 1])
    if ARGV[4] ~= '' and ARGV[i + 2] ~= '' then
      redis.call('PUBLISH', ARGV[4], ARGV[i + 2])
    end
    stored = true
    answer[#answer + 1] = 1
  else
    answer[#answer + 1] = 0
  end
end
if stored then
  redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[1]) - 1)
  if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -KEEP_SEEN - 1)
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
answer[1] = redis.call('LLEN', KEYS[1])
return answer
