-- Health of an InferenceService for Argo CD. Healthy: everything is as the spec wants it.
local health = { status = "Progressing", message = "no operator has seen this spec yet" }
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if (status.observedGeneration or -1) ~= (obj.metadata.generation or 0) then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local function is(type, value)
  return conditions[type] ~= nil and conditions[type].status == value
end

if is("Stalled", "True") then
  return { status = "Degraded", message = conditions.Stalled.message }
end
if is("Ready", "True") and conditions.Ready.reason == "Suspended" then
  return { status = "Suspended", message = conditions.Ready.message }
end
if is("Reconciling", "True") and conditions.Reconciling.reason == "RolloutPaused" then
  return { status = "Suspended", message = conditions.Reconciling.message }
end
if is("Ready", "True") and is("Reconciling", "False") then
  return { status = "Healthy", message = conditions.Ready.message }
end
if is("Ready", "False") then
  health.message = conditions.Ready.message
elseif conditions.Reconciling ~= nil then
  health.message = conditions.Reconciling.message
end
return health
