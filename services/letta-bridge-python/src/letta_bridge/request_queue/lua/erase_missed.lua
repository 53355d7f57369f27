-- erase_missed: drop the turns that a user's agent does not know yet.
--
-- ARGV 1 user
-- Returns how many they were.

local missed = redis.call('LLEN', MISSED .. ARGV[1])
if missed > 0 then
    redis.call('DEL', MISSED .. ARGV[1])
    redis.call('HINCRBY', COUNTERS, 'missed_pending', -missed)
end
return missed
