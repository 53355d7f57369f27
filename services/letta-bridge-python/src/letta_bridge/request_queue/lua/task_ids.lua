-- The user and the task id of a payload, exactly as parse_task (contracts/messages.py) reads them: a difference would
-- put one user into two lanes. Prepended to scripts that read tasks.
--
-- cjson rounds integers from 2^53 on, and refuses half a surrogate pair, a byte order mark and NUL; parse_task does not.

local LARGEST_EXACT = 9007199254740992  -- 2^53
local LARGE_INTEGER = '%-?' .. string.rep('%d', 15) .. '%d+'
local REPLACEMENT = '\239\191\189'      -- U+FFFD
local ESCAPED_REPLACEMENT = '\\ufffd'

-- Every well-formed character beyond ASCII, by its first byte.
local WELL_FORMED = {
    '^[\194-\223][\128-\191]', '^\224[\160-\191][\128-\191]', '^[\225-\236\238\239][\128-\191][\128-\191]',
    '^\237[\128-\159][\128-\191]', '^\240[\144-\191][\128-\191][\128-\191]',
    '^[\241-\243][\128-\191][\128-\191][\128-\191]', '^\244[\128-\143][\128-\191][\128-\191]',
}

-- A text with U+FFFD in place of each byte that is not UTF-8.
local function clean_utf8(text)
    if not string.find(text, '[\128-\255]') then
        return text
    end
    local parts, at = {}, 1
    while true do
        local odd = string.find(text, '[\128-\255]', at)
        parts[#parts + 1] = string.sub(text, at, odd and odd - 1 or -1)
        if not odd then
            return table.concat(parts)
        end
        local last = odd
        parts[#parts + 1] = REPLACEMENT
        for _, pattern in ipairs(WELL_FORMED) do
            local _, stop = string.find(text, pattern, odd)
            if stop then
                last, parts[#parts] = stop, string.sub(text, odd, stop)
                break
            end
        end
        at = last + 1
    end
end

-- A JSON document with U+FFFD in place of each half of a surrogate pair.
local function whole_pairs(json)
    local parts, from, at = {}, 1, 1
    while true do
        local escape = string.find(json, '\\', at, true)
        if not escape then
            parts[#parts + 1] = string.sub(json, from)
            return table.concat(parts)
        end
        if not string.find(json, '^u[dD][89a-fA-F]%x%x', escape + 1) then
            at = escape + 2
        elseif string.find(json, '^u[dD][89abAB]%x%x\\u[dD][c-fC-F]%x%x', escape + 1) then
            at = escape + 12
        else
            parts[#parts + 1] = string.sub(json, from, escape - 1) .. ESCAPED_REPLACEMENT
            from, at = escape + 6, escape + 6
        end
    end
end

-- A JSON document without characters that only cjson refuses, and with ids as texts that cjson would round. A quote
-- within a string is escaped, so `"user_id":` can only be a key.
local function readable(json)
    json = string.match(string.gsub(json, '^[%z%s\239\187\191]+', ''), '^.*[^%z%s]') or ''
    json = whole_pairs((string.gsub(json, '%z', '\\u0000')))
    for _, name in ipairs({ 'user_id', 'task_id' }) do
        json = string.gsub(json, '("' .. name .. '"%s*:%s*)(' .. LARGE_INTEGER .. ')(%s*[,}])', '%1"%2"%3')
    end
    return json
end

local function inexact(value)
    return type(value) == 'number' and math.abs(value) >= LARGEST_EXACT
end

local function decoded(json)
    local ok, task = pcall(cjson.decode, json)
    return ok and type(task) == 'table' and string.find(json, '^%s*{') and task  -- a list is a table, too
end

-- An integral number as the text of an integer; anything else unchanged.
local function identifier(value)
    if type(value) == 'number' and value == math.floor(value) and not inexact(value) then
        return value == 0 and '0' or string.format('%.0f', value)  -- -0 is a number, too
    end
    return value
end

-- The task of a payload, as cjson reads it, with exact ids; false or nil if it is not a JSON object.
local function read_task(payload)
    local task = decoded(payload)
    if not task or inexact(task.user_id) or inexact(task.task_id) then
        task = decoded(readable(payload))
    end
    return task
end

-- The task id of a JSON object that begins with it, without the cost of decoding the whole; nil where another member could
-- count as the task id, too: the last one of a name counts, and a name may be written with escapes.
local function leading_task_id(json)
    local task_id, after = string.match(json, '^{%s*"task_id"%s*:%s*"([^"\\%c\128-\255]+)"()')
    if task_id and not string.find(json, 'task_id', after, true) and not string.find(json, '\\u00', after, true) then
        return task_id
    end
end

-- User and task id; nil without a readable user, which parse_task refuses, too.
local function read_ids(payload, longest_user)
    local task = read_task(payload)
    if not task then
        return nil
    end
    local user, task_id = identifier(task.user_id), identifier(task.task_id)
    if user == nil or user == cjson.null or user == '' then
        user = 'anonymous'
    end
    if type(user) ~= 'string' or #user > longest_user or string.find(user, '%c') then
        return nil
    end
    if type(task_id) ~= 'string' or task_id == '' then
        return user, nil
    end
    return user, clean_utf8(task_id)
end
