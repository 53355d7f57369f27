-- Settle finished tasks, dead-letter unprocessable ones, count both.
-- KEYS[1] processing   KEYS[2] dead   KEYS[3] counters
-- ARGV[1] JSON {"receipts": [..], "letters": [[receipt, letter] ..], "counts": {name: n}, "dead_limit": n}
--         A letter whose receipt is '' did not come from the queue.
-- Returns how many tasks this instance still held.
local order = cjson.decode(ARGV[1])
local settled = 0
for _, receipt in ipairs(order.receipts) do
  settled = settled + redis.call('HDEL', KEYS[1], receipt)
end
local buried = 0
for _, letter in ipairs(order.letters) do
  local held = letter[1] == '' or redis.call('HDEL', KEYS[1], letter[1]) == 1
  if held then
    redis.call('LPUSH', KEYS[2], letter[2])
    buried = buried + 1
    if letter[1] ~= '' then settled = settled + 1 end
  end
end
if buried > 0 then
  redis.call('LTRIM', KEYS[2], 0, order.dead_limit - 1)
  redis.call('HINCRBY', KEYS[3], 'dead', buried)
end
if settled > 0 then redis.call('HINCRBY', KEYS[3], 'settled', settled) end
for name, n in pairs(order.counts) do
  redis.call('HINCRBY', KEYS[3], name, n)
end
return settled
