-- dispatch: take over turns with expired leases, route new tasks into lanes, hand out up to `want` turns.
-- While the queue is paused, no task is routed and, in mode `all`, no turn is handed out.
-- If Redis has lost acknowledged writes, nothing is handed out to this taker until its bridge has called `restore`.
--
-- ARGV 1 bridge  2 want  3 intake (tasks routed at most)  4 lease_ms  5 longest lane name in bytes
--      6 payload bytes handed out at most (a longer one is cut; the whole stays in the record)
--      7 bridge_ttl_ms (a bridge silent for longer is forgotten)
--      8 tasks that may wait in a lane, 0 for any number  9 beginning of the lanes for those beyond  10 how many lanes
--      11 taker: the bridge, with a + for the connection on which it waits
--      12 ticket of this call  13 last ticket of the taker that Redis acknowledged, or ''  14 ms a ticket is stored
--      15 bytes of payloads and kept replies handed out at most  16 1: return users who write while a turn of theirs runs, and its receipt
-- Returns {mode of the pause or '', turns, 1 if Redis has lost writes else 0, those users and receipts}, each turn being
--      {receipt, lane, attempts, seq, first_ms, payload, kept reply or false, missed turns, waited_ms,
--       {user, complete, generation, changes, the user's entry} of `choices`, or false where no user can be read here,
--       the request of an interrupt, or false}.

local bridge, want, intake, lease_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local longest_lane, longest_payload, bridge_ttl_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local max_lane, full_lane, full_lanes = tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10])
local taker, ticket, answered, ticket_ttl_ms, answer_bytes = ARGV[11], ARGV[12], ARGV[13], ARGV[14], tonumber(ARGV[15])
local barge_in, barging, running_ids = ARGV[16] == '1', {}, {}
local now = now_ms()
-- Bounds per call: unreadable entries set aside, heads of lanes marked after a loss of writes, entries of `begun` examined.
local UNREADABLE, DOUBTED, STALE = 100, 5000, 100
-- Bytes of tasks routed, and of turns taken over, per call: Redis serves no other client meanwhile.
local ROUTED_BYTES, TAKEN_OVER_BYTES = 4194304, 8388608
-- How long after its last hand-out a task's idempotency key is kept in its reply: 30 days.
local NEEDED_MS = 2592000000

-- Payloads without a readable user are spread over 64 lanes, so that a flood of them is processed concurrently.
local function lane_of(payload, place)
    local user = #payload <= longest_payload and read_ids(payload, longest_lane)
    return user and user_lane(user) or ('~' .. (place % 64))
end

-- Tasks and opt-ins are ordered by `first_ms`: an opt-in applies to tasks with a later one. A task's first_ms is the
-- clock's, or one more than the latest time up to which an opt-in does not apply, by at most AHEAD_MS: the clock may have
-- gone back. While tasks wait in the request list, an opt-in waits until those pushed before it are routed.
local AHEAD_MS, APPLIED = 1000, 5000
local routed, newest_ms, opted_in_ms, opt_ins_wait

local function stamp_ms()
    return math.min(math.max(now, opted_in_ms + 1), now + AHEAD_MS)
end

-- Applies the opt-ins that wait for at most this many tasks.
local function apply_opt_ins(tasks)
    for _, user_key in ipairs(redis.call('ZRANGEBYSCORE', OPT_INS, '-inf', tasks, 'LIMIT', 0, APPLIED)) do
        local chosen_ms = string.match(redis.call('HGET', CHOICES, user_key) or '', '^1 (%d+) %+')
        if chosen_ms then
            opted_in_ms = math.max(now, newest_ms, opted_in_ms)
            redis.call('HSET', CHOICES, user_key, '1 ' .. chosen_ms .. ' ' .. string.format('%d', opted_in_ms))
        end
        redis.call('ZREM', OPT_INS, user_key)
    end
    opt_ins_wait = redis.call('EXISTS', OPT_INS) == 1
end

-- How many tasks may be routed before an opt-in that waits for them applies.
local function until_opt_in(tasks)
    local first = opt_ins_wait and redis.call('ZRANGE', OPT_INS, 0, 0, 'WITHSCORES')[2]
    return first and math.max(0, math.min(tasks, tonumber(first) - routed)) or tasks
end

-- The task id of the turn in flight in a lane; false where it names none.
local function running_id(lane, receipt)
    if running_ids[lane] == nil then
        local _, _, entry = split_turn(redis.call('HGET', TURNS, receipt) or '')
        local _, _, _, payload = split_entry(entry or '')
        local _, task_id = read_ids(payload or '', longest_lane)
        running_ids[lane] = task_id or false
    end
    return running_ids[lane]
end

-- A user writes while a turn of theirs is in flight. The same task pushed again is no new message.
local function note_barging(lane, payload)
    local receipt = redis.call('HGET', LANES, lane)
    if not receipt or barging[#barging] == receipt then
        return
    end
    local _, task_id = read_ids(payload, longest_lane)
    if not task_id or task_id ~= running_id(lane, receipt) then
        barging[#barging + 1], barging[#barging + 2] = user_of(lane), receipt
    end
end

local function route(payload, place, first_ms)
    local lane = lane_of(payload, place)
    if max_lane > 0 and length_of(LANE .. lane) >= max_lane then
        lane = full_lane .. (place % full_lanes)
    end
    if barge_in and user_of(lane) then
        note_barging(lane, payload)
    end
    local seq = string.format('%d', place) .. ticket
    enqueue(lane, join_entry(seq, '0', first_ms, payload))
end

-- Routes tasks of one list, page by page: their sizes are known only once they are popped, so the pages grow. `taken` is
-- written first: if Redis refuses writes (OOM), the call fails before a task is popped. Returns what room is left.
local function route_from(list, tasks, bytes)
    local page = 1
    while tasks > 0 and bytes > 0 do
        local count = until_opt_in(math.min(tasks, page, redis.call('LLEN', list)))
        if count == 0 then
            break
        end
        local place = redis.call('HINCRBY', COUNTERS, 'taken', count) - count
        local stamp = stamp_ms()
        local before, first_ms = bytes, string.format('%d', stamp)
        count_open(tenth_of(stamp), count)
        for index, payload in ipairs(redis.call('RPOP', list, count)) do
            route(payload, place + index, first_ms)
            bytes = bytes - #payload
        end
        routed, newest_ms = routed + count, math.max(newest_ms, stamp)
        if opt_ins_wait then
            apply_opt_ins(routed)
        end
        tasks = tasks - count
        page = math.max(1, math.min(4 * page, math.floor(bytes * count / (before - bytes + 1))))
    end
    return tasks, bytes
end

local function route_new()
    if redis.call('EXISTS', INCOMING, REQUESTS, OPT_INS) == 0 then
        return
    end
    local order = redis.call('HMGET', ORDER, 'tasks', 'newest_ms', 'opted_in_ms')
    routed, newest_ms, opted_in_ms = tonumber(order[1] or 0), tonumber(order[2] or 0), tonumber(order[3] or 0)
    opt_ins_wait = redis.call('EXISTS', OPT_INS) == 1
    if opt_ins_wait then
        apply_opt_ins(routed)
    end
    local tasks, bytes = route_from(INCOMING, intake, ROUTED_BYTES)
    route_from(REQUESTS, tasks, bytes)
    if opt_ins_wait and redis.call('EXISTS', INCOMING, REQUESTS) == 0 then
        apply_opt_ins('+inf')  -- tasks also leave the list otherwise: an older bridge, `restore`
    end
    redis.call('HSET', ORDER, 'tasks', string.format('%d', routed), 'newest_ms', string.format('%d', newest_ms),
        'opted_in_ms', string.format('%d', opted_in_ms))
end

-- The oldest readable entry of a lane; unreadable ones before it are set aside. At the bound the lane goes back to `ready`
-- for the next call.
local unreadable = 0
local function next_entry(lane)
    while true do
        local entry = redis.pcall('RPOP', LANE .. lane)
        if type(entry) ~= 'string' then
            return nil  -- no entry, or a key of the wrong type, which the next task of this lane sets aside
        end
        local seq, attempts, first_ms, payload = split_entry(entry)
        if seq then
            return seq, add_attempts(attempts, 1), first_ms, payload
        elseif unreadable == UNREADABLE then
            redis.call('RPUSH', LANE .. lane, entry)
            redis.call('RPUSH', READY, lane)
            return nil
        end
        bury_record('entry', lane, entry)
        unreadable = unreadable + 1
    end
end

local any_held = redis.call('EXISTS', HELD) == 1

local function is_held_as(lane)
    local held = any_held and redis.call('HGET', HELD, lane)
    if held and tonumber(string.match(held, '^%d+') or 0) <= now then
        redis.call('HDEL', HELD, lane)
        held = false
    end
    return held
end

-- Whether this lane is held. A hold on a user also covers the lanes of the user's restored turns (restore.lua).
local function is_held(lane)
    return is_held_as(lane) or any_held and is_held_as(string.match(lane, '^(.*)~again:%d+[-+]%d+$') or lane)
end

-- The reply to an earlier task of this user with the same id. A task that is pushed again after a retryable error
-- inherits the earlier one's idempotency key; such a reply is kept for as long as the task may be handed out again.
local function kept_reply(user, task_id)
    local key = REPLY .. per_task(user, task_id)
    local kept = redis.pcall('GET', key)
    if type(kept) ~= 'string' then
        return false
    end
    if string.find(kept, ',"idempotency_key":', 1, true) and string.find(kept, '"retryable":true', 1, true)
        and redis.call('PTTL', key) < NEEDED_MS then
        redis.call('PEXPIRE', key, NEEDED_MS)
    end
    return kept
end

-- What the hand-outs of this call have in common is written and read at their end, in few commands. If the call failed
-- before that, `mend` would find their leases.
local leases, begun, choosers = {}, {}, {}

local function hand_out(lane, receipt)
    if redis.call('HEXISTS', LANES, lane) == 1 then
        return nil
    end
    local seq, attempts, first_ms, payload = next_entry(lane)
    if not seq then
        return nil
    end
    redis.call('HSET', TURNS, receipt, taker .. '\n' .. lane .. '\n' .. join_entry(seq, attempts, first_ms, payload))
    redis.call('HSET', LANES, lane, receipt)
    leases[#leases + 1], leases[#leases + 2] = now + lease_ms, receipt
    begun[#begun + 1], begun[#begun + 2] = now, receipt
    local kept, missed, choice, interrupt = false, 0, false, false
    if #payload > longest_payload then
        payload = string.sub(payload, 1, longest_payload + 1)
    else
        -- A lane's name without ~ is what was decoded when the task was routed: its user.
        local user = not string.find(lane, '~', 1, true) and lane
        local task_id = user and leading_task_id(payload)
        if not task_id then
            user, task_id = read_ids(payload, longest_lane)
        end
        if user then
            missed = length_of(MISSED .. user)
            choice = { user }
            choosers[#choosers + 1] = choice
            kept = task_id and kept_reply(user, task_id) or false
            if any_interrupts then
                local named = task_id or REQUESTS .. '-' .. first_ms .. '-' .. seq
                interrupt = interrupt_at_hand_out(per_task(user, named), seq .. '-' .. first_ms)
            end
        end
    end
    local waited_ms = math.max(0, now - tonumber(first_ms))
    return { receipt, lane, attempts, seq, first_ms, payload, kept, missed, waited_ms, choice, interrupt }
end

-- Adds to each choice what `choices` says of its user.
local function read_choices()
    local complete, generation, changes = unpack(
        redis.call('HMGET', CHOICES, 'complete', 'generation', 'changes'), 1, 3)
    local keys = {}
    for index, choice in ipairs(choosers) do
        keys[index] = redis.sha1hex(choice[1])
    end
    for index, entry in ipairs(call_many('HMGET', CHOICES, keys)) do
        local choice = choosers[index]
        choice[2], choice[3], choice[4], choice[5] = complete, generation, changes, entry
    end
end

local function take_over_expired()
    local bytes = 0
    for _, receipt in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)) do
        local record = redis.call('HGET', TURNS, receipt)
        bytes = bytes + (record and #record or 0)
        if record then
            give_back(receipt, record, 0)
            redis.call('HINCRBY', COUNTERS, 'redelivered', 1)
        else
            redis.call('ZREM', LEASES, receipt)
        end
        if bytes >= TAKEN_OVER_BYTES then
            return  -- the next call continues: their leases stay expired
        end
    end
end

-- Repairs `leases` and `lanes`, where damage would keep a turn in flight, or a lane blocked, for ever.
local function mend()
    local turns = redis.call('HLEN', TURNS)
    if turns == redis.call('ZCARD', LEASES) and turns == redis.call('HLEN', LANES) then
        return
    end
    local lanes, runs_in_lane = redis.call('HGETALL', LANES), {}
    for index = 2, #lanes, 2 do
        runs_in_lane[lanes[index]] = true
    end
    local receipts, record_of = fields_of(TURNS)
    for _, receipt in ipairs(receipts) do
        if not redis.call('ZSCORE', LEASES, receipt) then
            redis.call('ZADD', LEASES, now, receipt)
        end
        local _, lane
        if not runs_in_lane[receipt] then
            _, lane = split_turn(record_of(receipt))
        end
        if lane and redis.call('HEXISTS', LANES, lane) == 0 then
            redis.call('HSET', LANES, lane, receipt)
            redis.call('LREM', READY, 0, lane)
        end
    end
    for _, receipt in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
        if redis.call('HEXISTS', TURNS, receipt) == 0 then
            redis.call('ZREM', LEASES, receipt)
        end
    end
    lanes = redis.call('HGETALL', LANES)
    for index = 1, #lanes, 2 do
        if redis.call('HEXISTS', TURNS, lanes[index + 1]) == 0 then
            redis.call('HDEL', LANES, lanes[index])
            redis.call('LREM', READY, 0, lanes[index])
            if redis.call('EXISTS', LANE .. lanes[index]) == 1 then
                redis.call('RPUSH', READY, lanes[index])
            end
        end
    end
end

-- Removes entries of `begun` whose turns were ended by a bridge of an older release, which ignores this key.
local function forget_ended()
    if redis.call('ZCARD', BEGUN) > redis.call('HLEN', TURNS) then
        for _, receipt in ipairs(redis.call('ZRANGE', BEGUN, 0, STALE - 1)) do
            if redis.call('HEXISTS', TURNS, receipt) == 0 then
                redis.call('ZREM', BEGUN, receipt)
            end
        end
    end
end

-- After a loss of writes the task at the head of a lane may have been handed out before: count it as a redelivery, so
-- that its next bridge searches for it in Letta.
local function doubt_heads()
    for _, lane in ipairs(redis.call('LRANGE', READY, 0, DOUBTED - 1)) do
        local entry = redis.pcall('LINDEX', LANE .. lane, -1)
        if type(entry) == 'string' then
            local seq, attempts, first_ms, payload = split_entry(entry)
            if attempts == '0' then
                redis.call('LSET', LANE .. lane, -1, join_entry(seq, '01', first_ms, payload))
            end
        end
    end
end

redis.call('ZADD', BRIDGES, now, bridge)
redis.call('ZREMRANGEBYSCORE', BRIDGES, '-inf', now - bridge_ttl_ms)
mend()
take_over_expired()
forget_ended()

local paused = redis.call('HGET', PAUSED, 'mode') or ''
if (redis.call('GET', CALL .. taker) or '') < answered then
    doubt_heads()
    return { paused, {}, 1, {} }
end
redis.call('SET', CALL .. taker, ticket, 'PX', ticket_ttl_ms)

if paused == '' then
    route_new()
elseif paused ~= 'intake' then
    want = 0
end

local part = taker == bridge and '-' or '+'
local turns, passed_over, bytes = {}, {}, 0
for _ = 1, want > 0 and redis.call('LLEN', READY) or 0 do
    local lane = redis.call('LPOP', READY)
    if is_held(lane) then
        passed_over[#passed_over + 1] = lane
    else
        local turn = hand_out(lane, ticket .. part .. (#turns + 1))
        turns[#turns + 1] = turn
        bytes = bytes + (turn and #turn[6] + #(turn[7] or '') or 0)
    end
    if #turns == want or bytes >= answer_bytes then
        break
    end
end
for _, lane in ipairs(passed_over) do
    redis.call('RPUSH', READY, lane)
end
if #turns > 0 then
    call_many('ZADD', LEASES, leases)
    call_many('ZADD', BEGUN, begun)
    read_choices()
    redis.call('HINCRBY', COUNTERS, 'handed_out', #turns)
end
return { paused, turns, 0, barging }
