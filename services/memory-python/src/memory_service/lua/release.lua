-- Graceful shutdown: return unsettled tasks to the head of the queue, up to about MOVED_BYTES; call it until none is
-- left. The lease ends with the last task.
-- KEYS[1] processing   KEYS[2] queue   KEYS[3] incoming   KEYS[4] instances
-- ARGV[1] instance   ARGV[2] 1 in the first call of a shutdown, which first returns unclaimed tasks
-- Returns how many tasks were returned, and how many are left.
local MOVED_BYTES = 8388608
if ARGV[2] == '1' then
  while redis.call('LMOVE', KEYS[3], KEYS[2], 'LEFT', 'RIGHT') do end
end
local receipts, payload_of = fields_of(KEYS[1])
-- Consumers pop on the right, so the youngest is returned first and the oldest last.
table.sort(receipts, function(one, other) return one > other end)
local bytes = 0
for moved, receipt in ipairs(receipts) do
  local payload = payload_of(receipt)
  redis.call('RPUSH', KEYS[2], payload)
  redis.call('HDEL', KEYS[1], receipt)
  bytes = bytes + #payload
  if bytes >= MOVED_BYTES and moved < #receipts then return { moved, #receipts - moved } end
end
redis.call('ZREM', KEYS[4], ARGV[1])
return { #receipts, 0 }
