-- Take over the tasks of a dead instance, up to about MOVED_BYTES; call it until it moves none.
-- KEYS[1] processing of the dead instance   KEYS[2] processing of this one   KEYS[3] instances
-- ARGV[1] the dead instance   ARGV[2] 1 where its process is known to be gone, whatever its lease says
-- Returns how many tasks moved; 0 if none is left, the instance is alive, or another instance took them.
local MOVED_BYTES = 8388608
local deadline = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not deadline then return 0 end
local time = redis.call('TIME')
if ARGV[2] ~= '1' and tonumber(deadline) > time[1] * 1000 + time[2] / 1000 then return 0 end
local receipts, payload_of = fields_of(KEYS[1])
table.sort(receipts)
local bytes = 0
for moved, receipt in ipairs(receipts) do
  local payload = payload_of(receipt)
  redis.call('HSET', KEYS[2], receipt, payload)
  redis.call('HDEL', KEYS[1], receipt)
  bytes = bytes + #payload
  if bytes >= MOVED_BYTES and moved < #receipts then return moved end
end
redis.call('ZREM', KEYS[3], ARGV[1])
return #receipts
