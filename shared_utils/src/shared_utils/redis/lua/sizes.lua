-- Limits in bytes, for scripts of every service. Prepended to them.

-- Bytes of memory that a key takes, without touching its values; nil where this Redis user may not ask (MEMORY USAGE).
local function memory_of(key)
    local bytes = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
    return type(bytes) == 'number' and bytes or nil
end

-- Drops elements from the tail of a list, the oldest first, until it takes at most `bytes`: at most `most` elements,
-- and never the newest. Returns how many; none if this Redis user may not ask for memory.
local function drop_tail(key, bytes, most)
    for dropped = 0, most - 1 do
        if (memory_of(key) or 0) <= bytes or redis.call('LLEN', key) == 1 then
            return dropped
        end
        redis.call('LTRIM', key, 0, -2)
    end
    return most
end

-- Names of the fields of a hash, and a function that reads one of them. Where this Redis user may not ask for names alone
-- (HKEYS), everything is read at once.
local function fields_of(key)
    local names = redis.pcall('HKEYS', key)
    if type(names) == 'table' and not names.err then
        return names, function(name) return redis.call('HGET', key, name) end
    end
    local all, values = redis.call('HGETALL', key), {}
    names = {}
    for index = 1, #all, 2 do
        names[#names + 1] = all[index]
        values[all[index]] = all[index + 1]
    end
    return names, function(name) return values[name] end
end

