-- merge: store choices of other replicas where they win: the later one, on a tie the opt-out. Idempotent.
-- An unreadable entry is kept (it counts as an opt-out) unless the user has just made a new choice.
--
-- ARGV 1 generation for a hash that does not exist yet  2 '1' if the user has just chosen, '2' if this
--      repeats the opt-in that the user's entry holds
--      3… user key, '0' or '1', chosen_ms of each choice
-- Returns {complete, generation, changes}.

ensure_generation(ARGV[1])
for at = 3, #ARGV, 3 do
    local user_key, state, chosen_ms = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    local entered, entered_ms, readable = read_entry(user_key)
    local later = not entered or chosen_ms > entered_ms
    local stricter = entered == '1' and state == '0' and chosen_ms == entered_ms
    if (readable or ARGV[2] ~= '0') and (later or stricter) then
        write_entry(user_key, state, chosen_ms, ARGV[1], ARGV[2] == '2')
    end
end
return redis.call('HMGET', CHOICES, 'complete', 'generation', 'changes')
