import semver from 'semver'
import t from 'tap'
import { admitDependencies, admitRemoval, type Declared, type Installed, startsAfter, unsatisfied } from '../../../agent/change/dependencies.ts'
import type { OffboxError } from '../../../core/errors.ts'
import { providedBy } from '../../../core/manifest.ts'

interface Parts {
  readonly provides?: Record<string, string>
  readonly apis?: Record<string, string>
  readonly kernel?: string
  /** gRPC services it serves; default: one of its own name. */
  readonly serves?: readonly string[]
}

function declared(name: string, version: string, { provides, apis = {}, kernel, serves = [`test.${name}`] }: Parts = {}): Declared {
  const methods = serves.map((api) => ({ path: `/${api}/Do`, kind: 'unary' as const }))
  return { name, version, methods, ...(provides ? { provides } : {}), requires: { apis, ...(kernel === undefined ? {} : { kernel }) } }
}

function installed(...versions: (Declared | [Declared, ...Declared[]])[]): Installed[] {
  return versions.map((one) => {
    const all = Array.isArray(one) ? one : [one]
    return { service: all[0]?.name ?? '', versions: all, mayGo: false }
  })
}

const mayGo = (one: Declared): Installed => ({ service: one.name, versions: [one], mayGo: true })

function refusal(act: () => void): string {
  try {
    act()
    return 'admitted'
  } catch (error) {
    const { code, message } = error as OffboxError
    return code === 'DEPENDENCY_UNSATISFIED' ? message : `${code}: ${message}`
  }
}

const a1 = declared('a', '1.0.0')
const a11 = declared('a', '1.1.0')
const a2 = declared('a', '2.0.0')
const a2as1 = declared('a', '2.0.0', { provides: { 'test.a': '1.5.0' } })
const b = (range: string, version = '1.0.0') => declared('b', version, { apis: { 'test.a': range } })

const CASES: readonly [claim: string, candidate: Declared, present: Installed[], found: string][] = [
  ['requires nothing', a1, [], 'admitted'],
  ['a kernel that is here', declared('a', '1.0.0', { kernel: '^1.0.0' }), [], 'admitted'],
  ['a kernel that is not', declared('a', '1.0.0', { kernel: '^2.0.0' }), [], "a 1.0.0 requires kernel ^2.0.0; this agent's kernel is 1.0.0"],
  ['an API that is here', b('^1.0.0'), installed(a1), 'admitted'],
  ['an API that nothing provides', b('^1.0.0'), [], 'b 1.0.0 requires test.a ^1.0.0; nothing here provides it'],
  ['an API of another version', b('^2.0.0'), installed(a1), 'b 1.0.0 requires test.a ^2.0.0; a 1.0.0 provides 1.0.0'],
  ['the version of the API counts, not of the service', b('^1.2.0'), installed(a2as1), 'admitted'],
  [
    'a release candidate is not the release',
    b('^1.0.0'),
    installed(declared('a', '1.1.0-rc.1')),
    'b 1.0.0 requires test.a ^1.0.0; a 1.1.0-rc.1 provides 1.1.0-rc.1',
  ],
  ['its own API', declared('a', '1.0.0', { apis: { 'test.a': '^1.0.0' } }), [], 'admitted'],
  ['an upgrade within the range of others', a11, installed(a1, b('^1.0.0')), 'admitted'],
  ['an upgrade out of the range of others', a2, installed(a1, b('^1.0.0')), 'b 1.0.0 requires test.a ^1.0.0; a 2.0.0 provides 2.0.0'],
  ['an upgrade that keeps the API', a2as1, installed(a1, b('^1.0.0')), 'admitted'],
  [
    'an upgrade that drops the API',
    declared('a', '1.1.0', { serves: [] }),
    installed(a1, b('^1.0.0')),
    'b 1.0.0 requires test.a ^1.0.0; a 1.1.0 does not provide it',
  ],
  ['what did not hold before is not its doing', a11, installed(a1, b('^3.0.0')), 'admitted'],
  [
    'a provider whose install is not confirmed',
    b('^1.0.0'),
    [mayGo(a1)],
    'b 1.0.0 requires test.a ^1.0.0; a 1.0.0 provides it, and may go: its change is not confirmed',
  ],
  ['a provider that may revert to a version out of range', b('^2.0.0'), installed([a2, a1]), 'b 1.0.0 requires test.a ^2.0.0; a 1.0.0 provides 1.0.0'],
  ['a provider with both versions in range', b('>=1.0.0'), installed([a2, a1]), 'admitted'],
  [
    'an upgrade that a requirer on its way back could not use',
    a2,
    installed(a1, [b('>=1.0.0', '1.1.0'), b('^1.0.0')]),
    'b 1.0.0 requires test.a ^1.0.0; a 2.0.0 provides 2.0.0',
  ],
]

for (const [claim, candidate, present, found] of CASES) {
  t.test(`${claim}: ${found.slice(0, 60)}`, async (t) =>
    t.equal(
      refusal(() => admitDependencies(candidate, present, '1.0.0')),
      found,
    ),
  )
}

t.test('every range that does not hold is named, up to a few', async (t) => {
  const wide = declared('c', '1.0.0', { apis: Object.fromEntries(Array.from({ length: 7 }, (_, index) => [`test.x${index}`, '^1.0.0'])), kernel: '>9' })
  const text = refusal(() => admitDependencies(wide, [], '1.0.0'))
  t.match(text, /requires kernel >9; .*test\.x0 .*test\.x3 \^1\.0\.0; nothing here provides it\. and 3 more/)
})

t.test('what others require cannot be removed; what they do not, can', async (t) => {
  t.equal(
    refusal(() => admitRemoval('a', installed(a1, b('^1.0.0')))),
    'b 1.0.0 requires test.a ^1.0.0; nothing here provides it',
  )
  t.equal(
    refusal(() => admitRemoval('b', installed(a1, b('^1.0.0')))),
    'admitted',
  )
  t.equal(
    refusal(() => admitRemoval('a', installed(a1, declared('other', '1.0.0', { serves: ['test.a'] }), b('^1.0.0')))),
    'admitted',
    'another provides it as well',
  )
})

t.test('services start after those they depend on; a circle is cut and everything else keeps its order', async (t) => {
  const order = (...services: Declared[]) => Object.fromEntries([...startsAfter(services)].map(([name, before]) => [name, [...before].sort()]))
  t.same(order(b('*'), a1), { a: [], b: ['a'] })
  const circle = [declared('x', '1.0.0', { apis: { 'test.y': '*' } }), declared('y', '1.0.0', { apis: { 'test.x': '*' } })]
  t.same(order(...circle), { x: ['y'], y: [] })
  const three = ['x', 'y', 'z'].map((name, index) => declared(name, '1.0.0', { apis: { [`test.${'yzx'[index]}`]: '*', 'test.a': '*' } }))
  t.same(order(...three, a1), { a: [], x: ['a', 'y'], y: ['a', 'z'], z: ['a'] })
})

t.test('whatever is ordered, confirmed and reverted: no admitted change can leave a range that does not hold', async (t) => {
  let admitted = 0
  let refused = 0
  for (let seed = 1; seed <= 400; seed++) {
    const random = randomOf(seed)
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T
    const names = ['a', 'b', 'c', 'd', 'e']
    const make = (name: string): Declared => {
      const apis: Record<string, string> = {}
      while (random() < 0.5) apis[`test.${pick(names)}`] = pick(['^1.0.0', '^2.0.0', '>=1.0.0', '>=1.1.0 <3.0.0', '*'])
      return declared(name, pick(['1.0.0', '1.1.0', '2.0.0', '2.1.0', '3.0.0']), { apis, serves: random() < 0.9 ? [`test.${name}`] : [] })
    }
    let device: Installed[] = []
    for (let step = 0; step < 40; step++) {
      const name = pick(names)
      const own = device.find(({ service }) => service === name)
      const others = device.filter(({ service }) => service !== name)
      const settled = own?.versions.length === 1 && !own.mayGo
      const newest = own?.versions[0]
      const what = random()
      let after: Installed | undefined = own
      try {
        if (own && newest && !settled) {
          const before = own.versions[1]
          if (what < 0.6) after = { service: name, versions: [newest], mayGo: false }
          else after = before ? { service: name, versions: [before], mayGo: false } : undefined
        } else if (own && what < 0.2) {
          admitRemoval(name, device)
          after = undefined
        } else {
          const candidate = make(name)
          admitDependencies(candidate, device, '1.0.0')
          after = { service: name, versions: newest ? [candidate, newest] : [candidate], mayGo: !own }
        }
        admitted++
      } catch {
        refused++
      }
      device = after ? [...others, after] : others
      const broken = everyWorld(device).flatMap(brokenIn)
      if (broken.length > 0) return t.fail(`seed ${seed} step ${step}: ${broken[0]}`)
      if (unsatisfied(device).length > 0) return t.fail(`seed ${seed} step ${step}: ${JSON.stringify(unsatisfied(device)[0])}`)
    }
  }
  t.ok(admitted > 1_000 && refused > 1_000, `${admitted} admitted, ${refused} refused`)
})

/** What may come to be without a further order: each service in one of its versions, or gone. */
function everyWorld(device: readonly Installed[]): Declared[][] {
  return device.reduce<Declared[][]>(
    (worlds, { versions, mayGo }) => worlds.flatMap((world) => [...(mayGo ? [world] : []), ...versions.map((one) => [...world, one])]),
    [[]],
  )
}

/** Written again, plainly, so that the code under test is not its own judge. */
function brokenIn(world: readonly Declared[]): string[] {
  return world.flatMap((one) =>
    Object.entries(one.requires?.apis ?? {})
      .filter(([api, range]) => !world.some((other) => semver.satisfies(providedBy(other).get(api) ?? '', range)))
      .map(([api, range]) => `${one.name} ${one.version} requires ${api} ${range} among ${world.map(({ name, version }) => `${name} ${version}`).join(', ')}`),
  )
}

/** Mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
