-- Interrupts: tasks that are to be broken off, or were. Prepended to scripts that look at them.
--
-- A field of `interrupts` is "<user>:<task_id>", its value "<until_ms> <of>\n<request>":
--   until_ms  when the interrupt is forgotten
--   of        the number of the task it breaks off; "-" while no task of that id was handed out; "late" where the task
--             had ended before, so that the interrupt only says what the user heard, and "over" once that is noted
--   request   JSON, as letta_control carried it

local any_interrupts = redis.call('EXISTS', INTERRUPTS) == 1

-- What an interrupt is of, and its request; nil where there is none.
local function interrupt_of(task)
    local value = any_interrupts and redis.call('HGET', INTERRUPTS, task)
    if not value then
        return nil
    end
    local until_ms, of, request = string.match(value, '^(%d+) (%S+)\n(.*)$')
    if until_ms and tonumber(until_ms) > now_ms() then
        return of, request
    end
end

-- The request that breaks off the task with this number, which is in flight; false where there is none. "-": interrupt.lua
-- did not find it, because a later turn of its user runs in the user's lane (restore.lua).
local function interrupt_request(task, number)
    local of, request = interrupt_of(task)
    return (of == number or of == '-') and request or false
end

-- The same for a task that is handed out now, to which an interrupt of a task not handed out before applies.
local function interrupt_at_hand_out(task, number)
    local of, request = interrupt_of(task)
    if of == '-' then
        local value = redis.call('HGET', INTERRUPTS, task)
        redis.call('HSET', INTERRUPTS, task, (string.gsub(value, '^(%d+) %S+', '%1 ' .. number, 1)))
        of = number
    end
    return of == number and request or false
end

-- The number of the task of an entry; '' for an entry of another version.
local function number_of(entry)
    local seq, _, first_ms = split_entry(entry)
    return seq and seq .. '-' .. first_ms or ''
end

local function per_task(user, task_id)
    return string.gsub(string.gsub(user, '%%', '%%25'), ':', '%%3A') .. ':' .. task_id
end
