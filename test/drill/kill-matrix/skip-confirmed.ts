/**
 * The drill's sabotage: a journal that does not write down that a change is confirmed, so that a version becomes active on a
 * device whose journal still has it provisional. Everything else is as it should be.
 */
import { type FileSystem, nodeFileSystem as real } from '../../../agent/store/file-system.ts'
import { crashing } from './crash-point.ts'

const skipped = new Set<string>()

export const nodeFileSystem: FileSystem = crashing({
  ...real,
  create: async (path, bytes, mode) => {
    const text = Buffer.from(bytes).toString('latin1')
    if (text.includes('"state":"confirmed"') && text.includes('"settled":false')) skipped.add(path)
    await real.create(path, bytes, mode)
  },
  rename: async (from, to) => {
    if (skipped.delete(from)) await real.remove(from)
    else await real.rename(from, to)
  },
})
