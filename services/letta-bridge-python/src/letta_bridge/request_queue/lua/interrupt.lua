-- interrupt: break off a user's turn, or one that will be handed out; nothing of its reply is published from now on.
-- The bridge that has the turn reads it from the channel, with its next event, or when it settles.
--
-- ARGV 1 user  2 task id, '' for the turn in flight  3 the request, a line of JSON  4 what was heard, JSON
--      5 ttl_ms of the interrupt  6 beginning of the channels of task streams  7 channel on which bridges are told
--      8 longest user in bytes  9 ttl_ms of a task stream  10 events it keeps  11 interrupts kept at most
--      12 receipt: without a task id, only this hand-out, and only if its reply is being published in parts; '' for any
--      13 the list that holds the message which asks for this, '' where it cannot be reached from here  14 the message
-- Returns {outcome, task id, receipt, kept reply}; the outcomes are
--      interrupted  the turn is in flight           waiting  no turn of this task is in flight, nor was it answered
--      repeated     the task was interrupted before over     the task has ended (the kept reply is returned), and
--                                                            correct.lua has not noted yet what was heard
--      nothing      no turn of the user is in flight         full     too many interrupts are kept
--      taken        another bridge took the message

local user, wanted, request, heard, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local channel, told, longest_user = ARGV[6], ARGV[7], tonumber(ARGV[8])
local stream_ttl_ms, longest, most = ARGV[9], ARGV[10], tonumber(ARGV[11])
local now = now_ms()

-- Receipt, task id and number of the user's turn in flight.
local function in_flight()
    local receipt = redis.call('HGET', LANES, user_lane(user))
    local _, _, entry = split_turn(receipt and redis.call('HGET', TURNS, receipt) or '')
    local seq, _, first_ms, payload = split_entry(entry or '')
    if not seq then
        return nil
    end
    local named, task_id = read_ids(payload, longest_user)
    if named == user then
        return receipt, task_id or REQUESTS .. '-' .. first_ms .. '-' .. seq, seq .. '-' .. first_ms
    end
end

-- Whether there is room for another interrupt; those that are forgotten make some.
local function has_room()
    if redis.call('HLEN', INTERRUPTS) < most then
        return true
    end
    local all = redis.call('HGETALL', INTERRUPTS)
    for at = 1, #all, 2 do
        if tonumber(string.match(all[at + 1], '^%d+') or 0) <= now then
            redis.call('HDEL', INTERRUPTS, all[at])
        end
    end
    return redis.call('HLEN', INTERRUPTS) < most
end

local function note(task, of)
    redis.call('HSET', INTERRUPTS, task, string.format('%d', now + ttl_ms) .. ' ' .. of .. '\n' .. request)
    redis.call('PEXPIRE', INTERRUPTS, ttl_ms)
end

-- Tells who listens, if the turn has a stream that has not ended.
local function publish(task, task_id)
    local key = STREAM .. task
    local seq, receipt, count, event = last_event(key)
    if seq < 0 or is_last(event) then
        return
    end
    local attempt = string.match(event, '"attempt":(%d+)') or '1'
    local about = '{"task_id":' .. cjson.encode(task_id) .. ',"user_id":' .. cjson.encode(user)
    event = about .. ',"attempt":' .. attempt .. ',"type":"interrupted","heard":' .. heard .. '}'
    add_event(key, seq + 1, event, receipt, count, channel .. task_id, longest)
    redis.call('PEXPIRE', key, stream_ttl_ms)
end

-- A key of another type has no events.
local function is_streaming(task_id)
    local done, seq, _, _, event = pcall(last_event, STREAM .. per_task(user, task_id))
    return done and seq >= 0 and not is_last(event)
end

-- Without a task id, a second look at the message could break off the user's next turn: it is taken with the first.
if wanted == '' and ARGV[13] ~= '' and redis.call('LREM', ARGV[13], -1, ARGV[14]) == 0 then
    return { 'taken', '', '', '' }
end
local receipt, running, number = in_flight()
if wanted == '' and ARGV[12] ~= '' and not (receipt == ARGV[12] and is_streaming(running)) then
    receipt = nil
end
if wanted == '' and not receipt then
    return { 'nothing', '', '', '' }
end
local task_id = wanted ~= '' and wanted or running
local task = per_task(user, task_id)
local runs = receipt and running == task_id
local kept = redis.pcall('GET', REPLY .. task)
kept = type(kept) == 'string' and kept
local of = interrupt_of(task)
if runs and of ~= number then
    of = nil  -- the interrupt is of an earlier task of this id, which is tried again
elseif of == 'late' and kept then
    return { 'over', task_id, '', kept }
end
if of then
    return { 'repeated', task_id, '', '' }
end
if not has_room() then
    return { 'full', task_id, '', '' }
end
if runs then
    note(task, number)
    pcall(publish, task, task_id)  -- a key of another type must not keep the turn from being broken off
    redis.call('PUBLISH', told, receipt .. '\n' .. request)
    return { 'interrupted', task_id, receipt, '' }
end
if kept then
    note(task, 'late')
    return { 'over', task_id, '', kept }
end
note(task, '-')
return { 'waiting', task_id, '', '' }
