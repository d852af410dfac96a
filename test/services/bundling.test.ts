import { readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { join } from 'node:path'
import { build } from 'esbuild'
import t from 'tap'
import { checkManifest } from '../../core/manifest.ts'
import { findForbidden } from '../../core/payload-rules.ts'
import type { ServiceModule } from '../../services/sdk/service.ts'
import { root, services } from '../tidy/sources.ts'

const folders = [...services().map((name) => `services/${name}`), 'services/telemetry/releases/1.0.0']
const fixtures = ['throws-at-start', 'hangs-at-start', 'unhealthy-after-3s'].map((name) => `test/fixtures/services/telemetry-${name}`)

for (const folder of [...folders, ...fixtures]) {
  t.test(`${folder} becomes one script that needs nothing of Node and serves what its manifest says`, async (t) => {
    const { outputFiles, metafile } = await build({
      ...{ entryPoints: [join(root, folder, 'service.ts')], bundle: true, write: false, metafile: true, logLevel: 'silent', absWorkingDir: root },
      ...{ format: 'iife', globalName: 'offboxService', platform: 'neutral', mainFields: ['module', 'main'], target: 'es2024' },
    })
    const [output] = outputFiles
    const imports = Object.values(metafile.inputs).flatMap((input) => input.imports)
    t.same(
      imports.filter(({ path, external }) => external || builtinModules.includes(path) || path.startsWith('node:')),
      [],
    )
    const text = output?.text ?? ''
    t.notMatch(text, /\brequire\(/)
    t.equal(findForbidden(text), undefined, 'nothing that the sandbox refuses')
    const { create } = new Function(`"use strict";\n${text}\nreturn offboxService`)() as ServiceModule
    const manifest = JSON.parse(readFileSync(join(root, folder, 'manifest.json'), 'utf8'))
    t.doesNotThrow(() => checkManifest({ schema: 1, ...manifest, payload: { sha256: '0'.repeat(64), sizeBytes: 0 } }))
    const served = create().methods.map(({ path, kind }) => ({ path, kind }))
    t.same(
      served,
      manifest.methods.map(({ path, kind }: { path: string; kind: string }) => ({ path, kind })),
      'in the order of the manifest',
    )
  })
}
