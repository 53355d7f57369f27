-- Take up to n tasks, oldest first, limited to CLAIMED_BYTES, and renew this instance's lease.
-- KEYS[1] incoming   list, taken before the queue: tasks that a BLMOVE moved and no instance claimed
-- KEYS[2] queue      list, producers LPUSH
-- KEYS[3] processing hash receipt -> payload, of this instance
-- KEYS[4] instances  zset instance -> end of lease (Redis time, ms)
-- ARGV[1] n   ARGV[2] instance   ARGV[3] lease in ms
-- Returns receipt, payload, receipt, payload ... A receipt sorts by the time of its claim and is unique.
local CLAIMED_BYTES = 4194304
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[4], math.floor(micros / 1000) + tonumber(ARGV[3]), ARGV[2])
local taken, bytes = {}, 0
for i = 1, tonumber(ARGV[1]) do
  local payload = redis.call('RPOP', KEYS[1]) or redis.call('RPOP', KEYS[2])
  if not payload then break end
  local receipt = string.format('%016.0f-%04d-%s', micros, i, ARGV[2])
  redis.call('HSET', KEYS[3], receipt, payload)
  taken[#taken + 1] = receipt
  taken[#taken + 1] = payload
  bytes = bytes + #payload
  if bytes >= CLAIMED_BYTES then break end
end
return taken
