-- erase_missed: delete a user's missed turns.
--
-- ARGV 1 user
-- Returns their number.

local missed = redis.call('LLEN', MISSED .. ARGV[1])
if missed > 0 then
    redis.call('DEL', MISSED .. ARGV[1])
    redis.call('HINCRBY', COUNTERS, 'missed_pending', -missed)
end
return missed
