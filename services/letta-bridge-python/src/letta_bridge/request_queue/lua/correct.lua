-- correct: add what was heard of a task that was over to its user's missed turns, once for each interrupt.
--
-- ARGV 1 missed turns kept of each persona at most  2 and their bytes  3 user  4 task id
--      5 the record, a line of JSON, '' where there is nothing to be told
-- Returns 1, or 0 where that was noted before, or the interrupt is gone: an erasure of its user removes it.

missed_kept, missed_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local user, task_id, record = ARGV[3], ARGV[4], ARGV[5]
local task = per_task(user, task_id)
local value = redis.call('HGET', INTERRUPTS, task)
if not value or interrupt_of(task) == 'over' then
    return 0
end
redis.call('HSET', INTERRUPTS, task, (string.gsub(value, '^(%d+) %S+', '%1 over', 1)))
if record ~= '' then
    change_missed(user, '', record)
end
return 1
