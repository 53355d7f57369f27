-- spend: count the tokens of a turn.
--
-- KEYS 1 rate: (not used)  2 tokens: prefix, see admit.lua
-- ARGV 1 user  2 tokens  3 seconds the counts of a day are kept
-- Returns 1.

local today = KEYS[2] .. string.format('%d', math.floor(redis.call('TIME')[1] / 86400))
redis.call('HINCRBY', today, ARGV[1], ARGV[2])
redis.call('HINCRBY', today, '', ARGV[2])
redis.call('EXPIRE', today, ARGV[3])
return 1
