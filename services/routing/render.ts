/**
 * RoutingConfig to BIRD 2 text. Pure. Every value passes a strict pattern before it reaches the text, so no field can say more
 * than it means; the result is the same for the same configuration, whatever the order of its neighbours and routes.
 */
import type { BgpNeighbor, RoutingConfig, StaticRoute } from '../../proto/gen/routing.ts'
import { OffboxError } from '../sdk/service.ts'

// biome-ignore format: a table
export const ROUTING_LIMITS = {
  neighborsMax: 512,
  staticRoutesMax: 100_000,
  holdTimeMinS: 3, holdTimeMaxS: 65_535, holdTimeDefaultS: 90,
  importLimitMax: 10_000_000, importLimitDefault: 100_000,
  asMax: 4_294_967_295,
} as const

/** @throws CONFIG_INVALID the first field that breaks its rule, and the rule */
export function render(config: RoutingConfig): string {
  checkConfig(config)
  const neighbors = [...config.neighbors].sort((a, b) => (a.name < b.name ? -1 : 1))
  const routes = [...config.staticRoutes].sort((a, b) => compareBytes(prefixBytes(a.prefix), prefixBytes(b.prefix)))
  const parts = [head(config.routerId), ...(routes.length > 0 ? [statics(routes)] : []), ...neighbors.map((one) => bgp(one, config.localAs))]
  return parts.join('\n')
}

/** Name of the BIRD protocol of a neighbour: the prefix keeps it apart from BIRD's keywords. */
export function protocolName(neighbor: string): string {
  return `bgp_${neighbor}`
}

function head(routerId: string): string {
  return `router id ${routerId};
# Time that neighbours get to tell their routes again after a restart of BIRD, seconds.
graceful restart wait 60;

define GRACEFUL_SHUTDOWN = (65535, 0);

function is_martian() {
  return net ~ [ 0.0.0.0/8{9,32}, 127.0.0.0/8+, 169.254.0.0/16+, 224.0.0.0/4+, 240.0.0.0/4+ ];
}

filter from_neighbor {
  if is_martian() then reject;
  # RFC 8326, section 4.2: the neighbour is about to go, so any other path is better.
  if GRACEFUL_SHUTDOWN ~ bgp_community then bgp_local_pref = 0;
  accept;
}

filter to_neighbor {
  if source !~ [ RTS_STATIC, RTS_BGP ] then reject;
  if DRAINED then bgp_community.add(GRACEFUL_SHUTDOWN);
  accept;
}

protocol device { scan time 10; }

protocol direct { ipv4; }

# Routes stay in the kernel while BIRD is away, and are taken over when it is back.
protocol kernel {
  scan time 20;
  persist;
  graceful restart;
  ipv4 {
    import none;
    export where source ~ [ RTS_STATIC, RTS_BGP ];
  };
}
`
}

function statics(routes: readonly StaticRoute[]): string {
  const lines = routes.map(({ prefix, via, blackhole }) => `  route ${prefix} ${blackhole ? 'blackhole' : `via ${via}`};`)
  return `protocol static offbox_static {\n  ipv4;\n${lines.join('\n')}\n}\n`
}

function bgp({ name, address, peerAs, holdTimeS, importLimit }: BgpNeighbor, localAs: number): string {
  return `protocol bgp ${protocolName(name)} {
  local as ${localAs};
  neighbor ${address} as ${peerAs};
  hold time ${holdTimeS ?? ROUTING_LIMITS.holdTimeDefaultS};
  connect delay time 1;
  connect retry time 10;
  error wait time 1, 30;
  graceful restart on;
  ipv4 {
    import filter from_neighbor;
    import limit ${importLimit ?? ROUTING_LIMITS.importLimitDefault} action block;
    export filter to_neighbor;
    next hop self;
  };
}
`
}

function checkConfig({ routerId, localAs, neighbors, staticRoutes }: RoutingConfig): void {
  rule(isAddress(routerId) && routerId !== '0.0.0.0', 'router_id', 'must be an IPv4 address in dotted form, not 0.0.0.0')
  rule(isInteger(localAs, 1, ROUTING_LIMITS.asMax), 'local_as', `must be 1 to ${ROUTING_LIMITS.asMax}`)
  rule(neighbors.length <= ROUTING_LIMITS.neighborsMax, 'neighbors', `must be at most ${ROUTING_LIMITS.neighborsMax}`)
  rule(staticRoutes.length <= ROUTING_LIMITS.staticRoutesMax, 'static_routes', `must be at most ${ROUTING_LIMITS.staticRoutesMax}`)
  const names = new Set<string>()
  const addresses = new Set<string>()
  for (const [index, neighbor] of neighbors.entries()) checkNeighbor(neighbor, `neighbors[${index}]`, names, addresses)
  const prefixes = new Set<string>()
  for (const [index, route] of staticRoutes.entries()) checkRoute(route, `static_routes[${index}]`, prefixes)
}

function checkNeighbor({ name, address, peerAs, holdTimeS, importLimit }: BgpNeighbor, at: string, names: Set<string>, addresses: Set<string>): void {
  const { holdTimeMinS, holdTimeMaxS, importLimitMax, asMax } = ROUTING_LIMITS
  rule(/^[a-z0-9_]{1,32}$/.test(name), `${at}.name`, 'must be 1 to 32 lower-case letters, digits and underscores')
  rule(!names.has(name), `${at}.name`, `"${name}" is used twice`)
  names.add(name)
  rule(isUnicast(address), `${at}.address`, 'must be the IPv4 address of a host')
  rule(!addresses.has(address), `${at}.address`, `${address} is used twice`)
  addresses.add(address)
  rule(isInteger(peerAs, 1, asMax), `${at}.peer_as`, `must be 1 to ${asMax}`)
  // Absent `optional` fields are undefined, which their type does not say.
  rule(isInteger(holdTimeS ?? holdTimeMinS, holdTimeMinS, holdTimeMaxS), `${at}.hold_time_s`, `must be ${holdTimeMinS} to ${holdTimeMaxS}`)
  rule(isInteger(importLimit ?? 1, 1, importLimitMax), `${at}.import_limit`, `must be 1 to ${importLimitMax}`)
}

function checkRoute({ prefix, via, blackhole }: StaticRoute, at: string, prefixes: Set<string>): void {
  rule(isPrefix(prefix), `${at}.prefix`, 'must be an IPv4 prefix in CIDR form with host bits zero')
  rule(!prefixes.has(prefix), `${at}.prefix`, `${prefix} is used twice`)
  prefixes.add(prefix)
  const hasVia = via !== undefined && via !== ''
  rule(hasVia !== (blackhole === true), at, 'must have either via or blackhole: true')
  rule(!hasVia || isUnicast(via), `${at}.via`, 'must be the IPv4 address of a host')
}

/** Dotted form without leading zeros, which some parsers read as octal. */
function isAddress(text: string): boolean {
  const parts = text.split('.')
  return parts.length === 4 && parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255)
}

function isUnicast(text: string): boolean {
  const first = Number(text.split('.')[0])
  return isAddress(text) && first !== 0 && first !== 127 && first < 224
}

function isPrefix(text: string): boolean {
  const [address = '', length = '', ...rest] = text.split('/')
  if (rest.length > 0 || !isAddress(address) || !/^(0|[1-9][0-9]?)$/.test(length) || Number(length) > 32) return false
  const bits = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
  return bits % 2 ** (32 - Number(length)) === 0
}

function prefixBytes(prefix: string): number[] {
  return prefix.split(/[./]/).map(Number)
}

function compareBytes(a: readonly number[], b: readonly number[]): number {
  const index = a.findIndex((byte, at) => byte !== b[at])
  return index === -1 ? 0 : (a[index] ?? 0) - (b[index] ?? 0)
}

function isInteger(value: number, min: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max
}

function rule(holds: boolean, field: string, text: string): void {
  if (!holds) throw new OffboxError('CONFIG_INVALID', `${field} ${text}`)
}
