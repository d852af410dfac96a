import t from 'tap'
import { parseConfig } from '../../../fleet/config/config.ts'
import { defaultConfigText } from '../../../fleet/config/default-text.ts'
import { readRoutingFile } from '../../../fleet/config/routing.ts'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

t.test('the file that init writes says the defaults', async (t) => {
  t.same(parseConfig(defaultConfigText('lab'), 'offbox.yaml'), parseConfig('fleet: lab\n', 'offbox.yaml'))
})

// biome-ignore format: a table
const WRONG: readonly [claim: string, text: string, complaint: RegExp][] = [
  ['broken syntax',                 'fleet: lab\ncontroller: {address: 10.0.0.1\n',          /^offbox\.yaml:\d+:\d+: .*/],
  ['a tab for indentation',         'fleet: lab\ncontroller:\n\taddress: 10.0.0.1\n',        /^offbox\.yaml:3:1: /],
  ['a key twice',                   'fleet: lab\nfleet: x\n',                                /^offbox\.yaml:2:1: /],
  ['a port that is no number',      'fleet: lab\ncontroller:\n  apiPort: many\n',            /^offbox\.yaml:3:12: controller\.apiPort must be an integer from 1 to 65535, not "many"$/],
  ['a port out of range',           'fleet: lab\ncontroller:\n  apiPort: 70000\n',           /^offbox\.yaml:3:12: controller\.apiPort must be an integer from 1 to 65535, not 70000$/],
  ['an unknown setting',            'fleet: lab\ncontroller:\n  apiport: 1\n',               /^offbox\.yaml:3:3: unknown setting controller\.apiport; known here: address, apiPort/],
  ['an address that is none',       'fleet: lab\ncontroller:\n  address: 10.0.0.256\n',      /^offbox\.yaml:3:12: controller\.address must be an IPv4 address, not "10\.0\.0\.256"$/],
  ['no fleet',                      'lab: {}\n',                                             /^offbox\.yaml:1:1: fleet is missing$/],
  ['an empty file',                 '',                                                      /^offbox\.yaml:1:1: the file must be a map of settings, not null$/],
  ['a list',                        '- fleet\n',                                             /^offbox\.yaml:1:1: the file must be a map of settings/],
  ['an alias',                      'fleet: &a lab\ncontroller:\n  address: *a\n',           /aliases/],
]

for (const [claim, text, complaint] of WRONG) {
  t.test(`${claim} is refused with file, line and column`, async (t) => {
    t.throws(() => parseConfig(text, 'offbox.yaml'), { code: 'CONFIG_INVALID', message: complaint })
  })
}

t.test('every mistake is told, not only the first', async (t) => {
  try {
    parseConfig('fleet: lab\nrollout:\n  bakeSeconds: -1\n  confirmSeconds: x\nlab:\n  devices: 0\n', 'f.yaml')
    t.fail('accepted')
  } catch (error) {
    const lines = (error as Error).message.split('\n')
    t.same(
      lines.map((line) => line.split(' ')[0]),
      ['f.yaml:3:16:', 'f.yaml:4:19:', 'f.yaml:6:12:'],
    )
  }
})

t.test('a routing file is checked field by field, inside lists as well', async (t) => {
  const file = join(t.testdir(), 'r.yaml')
  await writeFile(
    file,
    'routerId: 10.0.0.1\nlocalAs: 65001\nneighbors:\n  - name: sw2\n    address: 10.0.0.2\n    peerAs: 65002\nstaticRoutes:\n  - prefix: 10.1.0.0/16\n    blackhole: true\n',
  )
  t.match(await readRoutingFile(file), { routerId: '10.0.0.1', neighbors: [{ name: 'sw2' }] })
  await writeFile(file, 'routerId: 10.0.0.1\nlocalAs: 65001\nneighbors:\n  - name: "a; show"\n    address: 10.0.0.2\n    peerAs: 65002\n    peerAS: 1\n')
  await t.rejects(readRoutingFile(file), {
    code: 'CONFIG_INVALID',
    message: /r\.yaml:7:5: unknown setting neighbors\.0\.peerAS|r\.yaml:4:11: neighbors\.0\.name must be/,
  })
  await t.rejects(readRoutingFile(`${file}.none`), { code: 'CONFIG_INVALID', message: /cannot be read/ })
})
