-- forget: drop the waiting tasks of a user and the turns its agent does not know; nothing is sent to anybody.
--
-- ARGV 1 lane of a user  2 the user
-- Returns {tasks dropped, missed turns dropped}, or {-1, 0} where a turn of this user is in flight: wait for its end.

local lane, user = ARGV[1], ARGV[2]
if redis.call('HEXISTS', LANES, lane) == 1 then
    return {-1, 0}
end
local waiting = redis.call('LLEN', LANE .. lane)
if waiting > 0 then
    redis.call('DEL', LANE .. lane)
    redis.call('LREM', READY, 0, lane)
    redis.call('HINCRBY', COUNTERS, 'settled:erased', waiting)
end
local missed = redis.call('LLEN', MISSED .. user)
if missed > 0 then
    redis.call('DEL', MISSED .. user)
    redis.call('HINCRBY', COUNTERS, 'missed_pending', -missed)
end
return {waiting, missed}
