-- Changes a user's missed turns. Prepended to scripts that do; they set the two bounds.

-- Missed turns kept of each persona at most, and their bytes.
local missed_kept, missed_bytes

-- The persona of a missed turn; records of the previous release have none.
local function persona_of(record)
    local readable, turn = pcall(cjson.decode, record)
    return readable and type(turn) == 'table' and turn.persona or 'default'
end

-- Drops the oldest records beyond a bound, each persona's separately. The newest stays, whatever its size.
local function drop_oldest(key, added)
    if redis.call('LLEN', key) <= missed_kept and (memory_of(key) or math.huge) <= missed_bytes then
        return
    end
    local persona, same, bytes = persona_of(added), {}, 0
    for _, record in ipairs(redis.call('LRANGE', key, 0, -1)) do
        if persona_of(record) == persona then
            same[#same + 1] = record
            bytes = bytes + #record
        end
    end
    for index = 1, #same - 1 do
        if #same - index < missed_kept and bytes <= missed_bytes then
            break
        end
        redis.call('LREM', key, 1, same[index])
        redis.call('HINCRBY', COUNTERS, 'missed_dropped', 1)
        bytes = bytes - #same[index]
    end
end

local function remember(user, told, missed)
    local key = MISSED .. user
    local before = redis.call('LLEN', key)
    if told ~= '' and before > 0 then
        local is_told = {}
        for digest in string.gmatch(told, '%S+') do
            is_told[digest] = true
        end
        for _, record in ipairs(redis.call('LRANGE', key, 0, -1)) do
            if is_told[redis.sha1hex(record)] then
                redis.call('LREM', key, 1, record)
            end
        end
    end
    for added in string.gmatch(missed, '[^\n]+') do
        redis.call('RPUSH', key, added)
        drop_oldest(key, added)
    end
    local after = redis.call('LLEN', key)
    if after ~= before then
        redis.call('HINCRBY', COUNTERS, 'missed_pending', after - before)
    end
end

-- A missed-turns key of the wrong type must not block the user's answer.
local function mend_missed(user, missed, problem)
    if not is_wrong_type(problem) then
        error(problem)
    elseif set_key_aside(MISSED .. user, user_lane(user)) then
        remember(user, '', missed)
    else
        for added in string.gmatch(missed, '[^\n]+') do
            set_aside('missed', 'unreadable_record', user_lane(user), added)
        end
    end
end

-- Removes the records with these SHA-1 (separated by blanks) from a user's missed turns, then adds some, a line each.
local function change_missed(user, told, missed)
    local done, problem = pcall(remember, user, told, missed)
    if not done then
        mend_missed(user, missed, problem)
    end
end
