-- mark_complete: set the completeness marker, unless Redis lost writes since the loader saw the hash last.
--
-- ARGV 1 generation  2 changes, both as the loader saw them last
-- Returns 1, or 0 where the hash belongs to another generation or has fewer changes.

local generation, changes = unpack(redis.call('HMGET', CHOICES, 'generation', 'changes'), 1, 2)
if generation ~= ARGV[1] or tonumber(changes or 0) < tonumber(ARGV[2]) then
    return 0
end
redis.call('HSET', CHOICES, 'complete', '1')
return 1
