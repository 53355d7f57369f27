-- Shared by the scripts over a queue's choices; prepended to each before it is loaded.
--
-- KEYS 1 choices  hash: one field per user and three state fields, all in one key, so that whatever removes a choice
--                 (FLUSHALL, an eviction) removes the completeness marker as well.
--   <user key>    "<0|1> <chosen_ms>": 0 is an opt-out; the user key is the hex SHA-1 of the user's id
--   generation    random id of this hash: another id means that the hash was lost and created again
--   changes       number of writes: fewer under the same generation mean that Redis lost some
--   complete      completeness marker: every choice of the durable store was loaded into this generation

local CHOICES = KEYS[1]

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

local function write_entry(user_key, state, chosen_ms, new_generation)
    ensure_generation(new_generation)
    redis.call('HSET', CHOICES, user_key, state .. ' ' .. string.format('%.0f', chosen_ms))
    local changes = redis.call('HGET', CHOICES, 'changes')
    if changes and not string.match(changes, '^%d+$') then
        -- Lost writes can no longer be detected, so a new generation begins.
        redis.call('HSET', CHOICES, 'generation', new_generation, 'changes', '0')
        redis.call('HDEL', CHOICES, 'complete')
    end
    redis.call('HINCRBY', CHOICES, 'changes', 1)
end
