-- unhold: end a hold, so that bridges begin turns of the user again.
--
-- ARGV 1 user, the name of the lane  2 holder, '' for any holder
-- Returns 1, or 0 if this holder has no hold.

local held = redis.call('HGET', HELD, ARGV[1])
if not held or (ARGV[2] ~= '' and string.match(held, '^%d+ %d+ %d+ (%S+)') ~= ARGV[2]) then
    return 0
end
return redis.call('HDEL', HELD, ARGV[1])
