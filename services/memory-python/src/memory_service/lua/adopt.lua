-- Take over what a dead instance had claimed.
-- KEYS[1] processing of the dead instance   KEYS[2] processing of this one   KEYS[3] instances
-- ARGV[1] the dead instance   ARGV[2] 1 where its process is known to be gone, whatever its lease says
-- Returns how many tasks moved; 0 where the instance lives after all or somebody else was quicker.
local deadline = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not deadline then return 0 end
local time = redis.call('TIME')
if ARGV[2] ~= '1' and tonumber(deadline) > time[1] * 1000 + time[2] / 1000 then return 0 end
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  redis.call('HSET', KEYS[2], held[i], held[i + 1])
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return #held / 2
