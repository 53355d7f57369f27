-- unhold: let bridges begin turns of a user again.
--
-- ARGV 1 user, who is the lane  2 holder, '' for whoever it is
-- Returns 1, or 0 where this holder holds nothing.

local held = redis.call('HGET', HELD, ARGV[1])
if not held or (ARGV[2] ~= '' and string.match(held, '^%d+ %d+ %d+ (%S+)') ~= ARGV[2]) then
    return 0
end
return redis.call('HDEL', HELD, ARGV[1])
