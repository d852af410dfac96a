import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as grpc from '@grpc/grpc-js'
import t from 'tap'
import { ERRORS } from '../../core/errors.ts'
import { errorsPage, lifecyclePage } from '../../docs/generate.ts'
import { root, sources } from './sources.ts'

const read = (file: string) => readFileSync(join(root, file), 'utf8')

t.test('the generated pages are what the tables say', async (t) => {
  t.equal(read('docs/errors.md'), errorsPage(), 'run: npm run docs')
  t.equal(read('docs/lifecycle.md'), lifecyclePage(), 'run: npm run docs')
})

t.test('every code has a status that gRPC knows', async (t) => {
  for (const [code, row] of Object.entries(ERRORS)) t.type(grpc.status[row.status], 'number', code)
})

t.test('every code of the table is raised somewhere, and every code in the protos is in the table', async (t) => {
  const product = sources().filter((file) => /^(agent|core|fleet|image|services)\//.test(file) && file !== 'core/errors.ts')
  const text = product.map(read).join('\n')
  t.same(
    Object.keys(ERRORS).filter((code) => !text.includes(`'${code}'`)),
    [],
    'codes that nothing raises',
  )
  const named = ['lifecycle', 'device', 'enrol', 'routing', 'telemetry', 'secrets', 'fleet', 'trust'].flatMap(
    (name) => read(`proto/offbox/v1/${name}.proto`).match(/\b[A-Z]{3,}_[A-Z_]{3,}\b/g) ?? [],
  )
  const statuses = Object.keys(grpc.status)
  const others = ['GRACEFUL_SHUTDOWN', 'SERVICE_STATE_UNSPECIFIED', 'CHANGE_STATE_UNSPECIFIED', ...statuses]
  t.same(
    [...new Set(named)].filter((word) => !(word in ERRORS) && !others.includes(word)),
    [],
    'codes that the table lacks',
  )
})
