-- Shared by the scripts over a queue's choices; prepended to each before it is loaded.
--
-- KEYS 1 choices  hash: one field per user and three state fields, all in one key, so that whatever removes a choice
--                 (FLUSHALL, an eviction) removes the completeness marker as well.
--   <user key>    "0 <chosen_ms>": an opt-out; the user key is the hex SHA-1 of the user's id
--                 "1 <chosen_ms> <since_ms>": an opt-in; a task whose first_ms is not later was pushed before it. While
--                 tasks wait in the request list that were pushed before it, since_ms is "+", and it applies to none.
--                 Without since_ms, which older bridges do not write, chosen_ms counts
--   generation    random id of this hash: another id means that the hash was lost and created again
--   changes       number of writes: fewer under the same generation mean that Redis lost some
--   complete      completeness marker: every choice of the durable store was loaded into this generation
--      2 requests  3 incoming  4 order  5 opt_ins: of the queue, see request_queue/lua/common.lua

local CHOICES, REQUESTS, INCOMING, ORDER, OPT_INS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns the state ('0' or '1', nil without a readable entry), chosen_ms, and whether the entry is readable.
local function read_entry(user_key)
    local text = redis.call('HGET', CHOICES, user_key)
    if not text then
        return nil, 0, true
    end
    local state, chosen_ms = string.match(text, '^([01]) (%d+)')
    return state, tonumber(chosen_ms or 0), state ~= nil
end

local function ensure_generation(new_generation)
    if redis.call('HEXISTS', CHOICES, 'generation') == 0 then
        redis.call('HSET', CHOICES, 'generation', new_generation)
    end
end

-- since_ms of an opt-in that is made now, or that this Redis learns of now: after all tasks that are routed. Those in
-- the request list may have been pushed while the user had opted out, also where a failover brought them back.
local function opt_in_now(user_key)
    local waiting = redis.call('LLEN', REQUESTS) + redis.call('LLEN', INCOMING)
    local tasks, newest_ms, opted_in_ms = unpack(redis.call('HMGET', ORDER, 'tasks', 'newest_ms', 'opted_in_ms'), 1, 3)
    if waiting > 0 then
        redis.call('ZADD', OPT_INS, string.format('%.0f', tonumber(tasks or 0) + waiting), user_key)
        return '+'
    end
    redis.call('ZREM', OPT_INS, user_key)
    local since_ms = string.format('%.0f', math.max(now_ms(), tonumber(newest_ms or 0), tonumber(opted_in_ms or 0)))
    redis.call('HSET', ORDER, 'opted_in_ms', since_ms)
    return since_ms
end

-- since_ms of an opt-in that repeats one; nil where the entry is none. The user was opted in all the time.
local function since_of(user_key)
    local chosen_ms, since = string.match(redis.call('HGET', CHOICES, user_key) or '', '^1 (%d+) ?([%d+]*)')
    return since ~= '' and since or chosen_ms
end

-- repeated: this opt-in repeats the one in the entry, with no opt-out in between.
local function write_entry(user_key, state, chosen_ms, new_generation, repeated)
    ensure_generation(new_generation)
    local entry = state .. ' ' .. string.format('%.0f', chosen_ms)
    if state == '1' then
        entry = entry .. ' ' .. (repeated and since_of(user_key) or opt_in_now(user_key))
    else
        redis.call('ZREM', OPT_INS, user_key)
    end
    redis.call('HSET', CHOICES, user_key, entry)
    local changes = redis.call('HGET', CHOICES, 'changes')
    if changes and not string.match(changes, '^%d+$') then
        -- Lost writes can no longer be detected, so a new generation begins.
        redis.call('HSET', CHOICES, 'generation', new_generation, 'changes', '0')
        redis.call('HDEL', CHOICES, 'complete')
    end
    redis.call('HINCRBY', CHOICES, 'changes', 1)
end
