-- expire_creation: set the remaining time of a creation lease, if it still belongs to this attempt. Idempotent.
-- Runs without common.lua, because it accesses one key only.
--
-- KEYS 1 creation lease  string: the idempotency token of the attempt
-- ARGV 1 token  2 ms from now, 0 releases it
-- Returns 1, or 0 where the lease has expired or belongs to another attempt.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
