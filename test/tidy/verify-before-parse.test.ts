import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { root, sources } from './sources.ts'

const read = (file: string) => readFileSync(join(root, file), 'utf8')

t.test('bytes are branded as verified in one place only', async (t) => {
  const casts = sources().filter((file) => !file.startsWith('test/') && /\bas VerifiedBytes\b/.test(read(file)))
  t.same(casts, ['core/signing.ts'], 'a cast elsewhere would walk around the signature check')
})

t.test('the parsers of signed formats take verified bytes and nothing else', async (t) => {
  t.match(read('core/manifest.ts'), /export function parseManifest\(bytes: VerifiedBytes\)/)
  t.match(read('core/floors.ts'), /function parseFloors\(bytes: VerifiedBytes\)/)
  const parsers = sources().filter((file) => (file.startsWith('agent/trust/') || file.startsWith('agent/supervisor/')) && /JSON\.parse/.test(read(file)))
  t.same(
    parsers.filter((file) => file !== 'agent/trust/store.ts'),
    [],
    'agent/trust and agent/supervisor parse nothing themselves (the store reads its own index files)',
  )
})

t.test('a verified bundle is made in one place only', async (t) => {
  const makers = sources().filter((file) => !file.startsWith('test/') && /\bas VerifiedBundle\b/.test(read(file)))
  t.same(
    makers.filter((file) => file !== 'agent/trust/verify.ts'),
    [],
  )
})
