-- Store messages in one list, newest first, each once, and announce them. Messages from before their user's erasure are
-- not stored: a frozen service may have held them during the erasure.
-- KEYS[1] list of messages   KEYS[2] seen: zset message id -> Redis time in seconds
-- KEYS[3] erasures: zset hash of a user -> when the user was erased (Redis time, ms); absent in a Cluster
-- ARGV[1] limit of the list  ARGV[2] its ttl in seconds, 0 for none  ARGV[3] window of seen in seconds
-- ARGV[4] channel, '' for none   ARGV[5] bytes of memory the list may take; the newest message stays whatever its size
-- ARGV[6..] message id, record, update ('' for none), hash of its user, origin in ms ('' where it is not known),
--           id of the message it answers ('' for none); oldest message first
-- Returns the list's length, then for each message 1 (stored), 0 (was stored before) or -1 (its user was erased since).
local KEEP_SEEN = 10000
local FIRST, FIELDS = 6, 6
-- Messages dropped for each stored one, at most: after the bound was lowered, later calls drop the rest.
local DROPPED = 16
local DAY_MS = 86400000
-- Fails before any write if a key has the wrong type.
redis.call('LLEN', KEYS[1])
local time = redis.call('TIME')
local now = tonumber(time[1])
local any_erased = KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1

local function is_erased(user, origin, answers)
  local at = any_erased and redis.call('ZSCORE', KEYS[3], user)
  if not at then return false end
  if origin ~= '' then return tonumber(origin) <= tonumber(at) end
  -- Of a received answer: the message that it answers is among the seen ones, unless that was erased.
  return answers ~= '' and tonumber(at) > now * 1000 - DAY_MS and not redis.call('ZSCORE', KEYS[2], answers)
end

local answer = { 0 }
local stored = 0
for i = FIRST, #ARGV, FIELDS do
  if is_erased(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]) then
    answer[#answer + 1] = -1
  elseif redis.call('ZADD', KEYS[2], 'NX', now, ARGV[i]) == 1 then
    redis.call('LPUSH', KEYS[1], ARGV[i + 1])
    if ARGV[4] ~= '' and ARGV[i + 2] ~= '' then
      redis.call('PUBLISH', ARGV[4], ARGV[i + 2])
    end
    stored = stored + 1
    answer[#answer + 1] = 1
  else
    answer[#answer + 1] = 0
  end
end
if stored > 0 then
  redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[1]) - 1)
  drop_tail(KEYS[1], tonumber(ARGV[5]), DROPPED * stored)
  if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -KEEP_SEEN - 1)
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
answer[1] = redis.call('LLEN', KEYS[1])
return answer
