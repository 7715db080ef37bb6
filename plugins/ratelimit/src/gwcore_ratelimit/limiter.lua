-- The limits of many machines: the arithmetic of gcra.py, in one atomic step per batch of operations.
-- A TAT is whole microseconds and a remainder in 1/amount of one; every number here is a whole one below 2^53.
-- now_us() is defined by the line that is put before this text. KEYS in the order in which the operations use them;
-- ARGV[1] is a JSON list of operations:
--   ["a", lease, ttl_us, {charge, ...}]  admit: all or nothing; answers {refused, wait, a, b, c, ...}
--       {1, shadow, amount, cost_us, cost_rem, burst_us, burst_rem, floor_us}   GCRA      answers lead_us, rem, 0
--       {2, shadow, amount, cost, width}                                        window    answers remaining, reset, stamp
--       {3, shadow, amount}                                                     parallel  answers remaining, 0, 0
--     a shadow limit that would have refused answers -1, wait, 0
--   ["s", lease, {entry, ...}]           settle
--       {1, amount, more_us, more_rem, cap_us, cap_rem} | {2, more, stamp, width} | {3}
--   ["h", worker, ttl_us, {lease, ...}]  heartbeat: one key for the workers, one per lease; answers {workers, rank}
local BUCKETS = 12
-- longer than a cache entry lives: where keys are evicted by time to live (volatile-ttl), those go first
local KEEP = 172800000
local now = now_us()
local at = 0
local out = {}

local function text(n) return string.format('%.0f', n) end

local function load(key, amount)
  local kept = redis.call('GET', key)
  if kept then
    local space = string.find(kept, ' ', 1, true)
    local us, rem = tonumber(string.sub(kept, 1, space - 1)), tonumber(string.sub(kept, space + 1))
    if us >= now then return us, math.min(rem, amount - 1) end
  end
  return now, 0
end

local function save(key, us, rem)
  redis.call('SET', key, text(us) .. ' ' .. text(rem), 'PX', text(math.ceil((us - now) / 1000) + KEEP))
end

local function add(us, rem, more_us, more_rem, amount)
  us, rem = us + more_us, rem + more_rem
  if rem >= amount then return us + 1, rem - amount end
  return us, rem
end

local function later(us, rem, other_us, other_rem)
  return us > other_us or (us == other_us and rem > other_rem)
end

local function window(key, width)
  local newest = math.floor(now / width)
  local counts, total, last = {}, 0, nil
  local kept = redis.call('HGETALL', key)
  for i = 1, #kept, 2 do
    local bucket, count = tonumber(kept[i]), tonumber(kept[i + 1])
    if bucket < newest - BUCKETS then
      redis.call('HDEL', key, kept[i])
    else
      counts[bucket], total = count, total + count
      if count > 0 and (not last or bucket > last) then last = bucket end
    end
  end
  return newest, counts, total, last
end

-- each look_ answers the wait, what the charge would make of the key, and how the key reads now
local look, move, read = {}, {}, {}

look[1] = function(key, c)
  local us, rem = load(key, c[3])
  if us < now + c[8] then us, rem = now + c[8], 0 end
  us, rem = add(us, rem, c[4], c[5], c[3])
  local most = now + c[6]
  if (c[4] > 0 or c[5] > 0) and later(us, rem, most, c[7]) then
    return us - most + (rem > c[7] and 1 or 0)
  end
  return 0, us, rem
end
move[1] = function(key, c, us, rem) save(key, us, rem) end
read[1] = function(key, c)
  local us, rem = load(key, c[3])
  return us - now, rem, 0
end

look[2] = function(key, c)
  local newest, counts, total = window(key, c[5])
  total = total + c[4]
  local leaves = now
  for bucket = newest - BUCKETS, newest do
    if total <= c[3] then break end
    total = total - (counts[bucket] or 0)
    leaves = (bucket + BUCKETS + 1) * c[5]
  end
  return leaves - now
end
move[2] = function(key, c)
  redis.call('HINCRBY', key, text(math.floor(now / c[5])), text(c[4]))
  redis.call('PEXPIRE', key, KEEP)
end
read[2] = function(key, c)
  local newest, counts, total, last = window(key, c[5])
  return math.max(0, c[3] - total), last and (last + BUCKETS + 1) * c[5] - now or 0, newest
end

look[3] = function(key, c)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
  return redis.call('ZCARD', key) < c[3] and 0 or 1000000
end
move[3] = function(key, c, lease, ttl)
  redis.call('ZADD', key, text(now + ttl), lease)
  redis.call('PEXPIRE', key, KEEP)
end
read[3] = function(key, c) return math.max(0, c[3] - redis.call('ZCARD', key)), 0, 0 end

local function admit(lease, ttl, charges)
  local answer, first, states = {-1, 0}, at, {}
  for i, c in ipairs(charges) do
    local wait, us, rem = look[c[1]](KEYS[first + i], c)
    states[i] = {wait, us, rem}
    if wait > 0 and c[2] == 0 and wait > answer[2] then answer[1], answer[2] = i - 1, wait end
  end
  for i, c in ipairs(charges) do
    local key, state = KEYS[first + i], states[i]
    if answer[1] < 0 and state[1] <= 0 then
      if c[1] == 3 then move[3](key, c, lease, ttl) else move[c[1]](key, c, state[2], state[3]) end
    end
  end
  for i, c in ipairs(charges) do
    local a, b, d = read[c[1]](KEYS[first + i], c)
    if c[2] == 1 and states[i][1] > 0 then a, b, d = -1, states[i][1], 0 end
    local n = #answer
    answer[n + 1], answer[n + 2], answer[n + 3] = a, b, d
  end
  at = first + #charges
  return answer
end

local function settle(lease, entries)
  for _, e in ipairs(entries) do
    at = at + 1
    local key = KEYS[at]
    if e[1] == 3 then
      redis.call('ZREM', key, lease)
    elseif e[1] == 2 then
      local newest = math.floor(now / e[4])
      if e[2] > 0 then
        redis.call('HINCRBY', key, text(newest), text(e[2]))
        redis.call('PEXPIRE', key, KEEP)
      else
        local count = tonumber(redis.call('HGET', key, text(e[3])) or '')
        if count then redis.call('HSET', key, text(e[3]), text(math.max(0, count + e[2]))) end
      end
    else
      local us, rem = load(key, e[2])
      local cap_us, cap_rem = now + e[5], e[6]
      if later(us, rem, cap_us, cap_rem) then cap_us, cap_rem = us, rem end
      us, rem = add(us, rem, e[3], e[4], e[2])
      if later(us, rem, cap_us, cap_rem) then us, rem = cap_us, cap_rem end
      if us < now then us, rem = now, 0 end
      save(key, us, rem)
    end
  end
end

local function heartbeat(worker, ttl, leases)
  at = at + 1
  local crew = KEYS[at]
  redis.call('ZREMRANGEBYSCORE', crew, '-inf', text(now))
  redis.call('ZADD', crew, text(now + ttl), worker)
  redis.call('PEXPIRE', crew, KEEP)
  for _, lease in ipairs(leases) do
    at = at + 1
    redis.call('ZADD', KEYS[at], text(now + ttl), lease)
    redis.call('PEXPIRE', KEYS[at], KEEP)
  end
  local names = redis.call('ZRANGE', crew, 0, -1)
  table.sort(names)
  for rank, name in ipairs(names) do
    if name == worker then return {#names, rank - 1} end
  end
end

for i, op in ipairs(cjson.decode(ARGV[1])) do
  if op[1] == 'a' then
    out[i] = admit(op[2], op[3], op[4])
  elseif op[1] == 's' then
    settle(op[2], op[3])
    out[i] = 0
  else
    out[i] = heartbeat(op[2], op[3], op[4])
  end
end
return out
