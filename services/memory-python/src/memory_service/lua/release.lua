-- A graceful stop: what is not done goes back to the head of the queue, oldest first, and the lease ends.
-- KEYS[1] processing   KEYS[2] queue   KEYS[3] incoming   KEYS[4] instances
-- ARGV[1] instance
-- Returns how many tasks went back.
local held = redis.call('HGETALL', KEYS[1])
local receipts, payloads = {}, {}
for i = 1, #held, 2 do
  receipts[#receipts + 1] = held[i]
  payloads[held[i]] = held[i + 1]
end
-- Consumers pop on the right: the youngest goes back first so that the oldest ends there.
while redis.call('LMOVE', KEYS[3], KEYS[2], 'LEFT', 'RIGHT') do end
table.sort(receipts)
for i = #receipts, 1, -1 do
  redis.call('RPUSH', KEYS[2], payloads[receipts[i]])
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[4], ARGV[1])
return #receipts
