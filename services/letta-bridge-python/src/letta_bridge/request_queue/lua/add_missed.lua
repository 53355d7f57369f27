-- add_missed: add a record to a user's missed turns.
--
-- ARGV 1 missed turns kept of each persona at most  2 and their bytes  3 user  4 the record, a line of JSON

missed_kept, missed_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
change_missed(ARGV[3], '', ARGV[4])
return 1
