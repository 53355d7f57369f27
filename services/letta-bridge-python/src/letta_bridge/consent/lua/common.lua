-- Shared by the scripts over a queue's choices; prepended to each before it is loaded.
--
-- KEYS 1 choices  hash, one field a user and three of its own. All in one key, so that an eviction or a FLUSHALL
--                 that takes a choice takes `complete` with it.
--   <user key>    "<0|1> <chosen_ms>": 0 refuses permanent memory; the user key is the hex SHA-1 of the user's id
--   born          names this hash: whoever finds another name knows that the hash was lost in between
--   changes       counts writes; a smaller number under the same name means that Redis lost some
--   complete      present once somebody had loaded every choice of the durable store

local CHOICES = KEYS[1]

-- Whether the user may be remembered ('1'), when that was chosen, and whether the entry could be read.
local function read_entry(user_key)
    local text = redis.call('HGET', CHOICES, user_key)
    if not text then
        return nil, 0, true
    end
    local state, chosen_ms = string.match(text, '^([01]) (%d+)')
    return state, tonumber(chosen_ms or 0), state ~= nil
end

local function name_it(new_name)
    if redis.call('HEXISTS', CHOICES, 'born') == 0 then
        redis.call('HSET', CHOICES, 'born', new_name)
    end
end

local function write_entry(user_key, state, chosen_ms, new_name)
    name_it(new_name)
    redis.call('HSET', CHOICES, user_key, state .. ' ' .. string.format('%.0f', chosen_ms))
    local changes = redis.call('HGET', CHOICES, 'changes')
    if changes and not string.match(changes, '^%d+$') then
        -- Nobody can tell any more what was lost: from now on this is another hash.
        redis.call('HSET', CHOICES, 'born', new_name, 'changes', '0')
        redis.call('HDEL', CHOICES, 'complete')
    end
    redis.call('HINCRBY', CHOICES, 'changes', 1)
end
