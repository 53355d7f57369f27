-- hold: let no bridge begin a turn of one user until the hold is lifted or expires. Tasks are still routed into the
-- lane and wait there. A repeated call of the same holder renews the hold.
--
-- ARGV 1 user, who is the lane  2 holder  3 ttl_ms  4 stale_ms: another's hold may be taken over once it was not renewed
--      for so long  5 lanes held at most  6 why, one line  7 1: nobody renews it, and nobody may take it over
-- Returns {1}; {0, ms until the other's hold is stale} where another holds the lane; {-1} where too many are held.

local lane, holder, ttl_ms, stale_ms, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local now = now_ms()
local since = now
local held = redis.call('HGET', HELD, lane)
if held then
    local until_ms, since_ms, renewed_ms, other = string.match(held, '^(%d+) (%d+) (%d+) (%S+)')
    if other == holder then
        since = tonumber(since_ms)
    elseif until_ms and tonumber(until_ms) > now and tonumber(renewed_ms) + stale_ms > now then
        return {0, tonumber(renewed_ms) + stale_ms - now}
    end
elseif redis.call('HLEN', HELD) >= most then
    return {-1}
end
local renewed = ARGV[7] == '1' and now + ttl_ms or now  -- in the future: not stale before it ends
local times = string.format('%d %d %d', now + ttl_ms, since, renewed)
redis.call('HSET', HELD, lane, times .. ' ' .. holder .. ' ' .. ARGV[6])
if redis.call('PTTL', HELD) < ttl_ms then  -- the key is deleted with the last hold
    redis.call('PEXPIRE', HELD, ttl_ms)
end
return {1}
