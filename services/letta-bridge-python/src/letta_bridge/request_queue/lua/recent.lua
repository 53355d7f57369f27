-- recent: the outcomes of the turns of the last minutes. Changes nothing.
--
-- ARGV 1 minutes, the current one among them
-- Returns {word, count, word, count, …}, in no order: the words that settlements were tallied under.

local minute, sums = minute_of(now_ms()), {}
for past = 0, tonumber(ARGV[1]) - 1 do
    local tallied = redis.pcall('HGETALL', TALLY .. (minute - past))
    for index = 1, #tallied, 2 do
        sums[tallied[index]] = (sums[tallied[index]] or 0) + tonumber(tallied[index + 1])
    end
end

local result = {}
for word, count in pairs(sums) do
    result[#result + 1] = word
    result[#result + 1] = count
end
return result
