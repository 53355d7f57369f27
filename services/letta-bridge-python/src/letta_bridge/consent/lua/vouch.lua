-- vouch: say that every choice of the durable store is entered here; refused where Redis lost something since.
--
-- ARGV 1 born, as the loader saw it last  2 changes, likewise
-- Returns 1, or 0 where the hash is another one by now, or has forgotten writes.

local born, changes = unpack(redis.call('HMGET', CHOICES, 'born', 'changes'), 1, 2)
if born ~= ARGV[1] or tonumber(changes or 0) < tonumber(ARGV[2]) then
    return 0
end
redis.call('HSET', CHOICES, 'complete', '1')
return 1
