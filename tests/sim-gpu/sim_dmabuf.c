// SPDX-License-Identifier: GPL-2.0
/*
 * Sharing buffers through dma-buf: CRIU checkpoint exports each GTT and VRAM buffer, and ROCm's
 * IPC passes them between processes. Only GPUs of this module can import them.
 */
#include <linux/dma-buf.h>
#include <uapi/linux/kfd_ioctl.h>

#include "sim.h"

/* no other device is there to read the pages */
static struct sg_table *sim_dmabuf_map(struct dma_buf_attachment *attach,
				       enum dma_data_direction dir)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void sim_dmabuf_unmap(struct dma_buf_attachment *attach, struct sg_table *sg,
			     enum dma_data_direction dir)
{
}

static int sim_dmabuf_mmap(struct dma_buf *buf, struct vm_area_struct *vma)
{
	return sim_bo_mmap(buf->priv, vma);
}

static void sim_dmabuf_release(struct dma_buf *buf)
{
	sim_bo_put(buf->priv);
}

static const struct dma_buf_ops sim_dmabuf_ops = {
	.map_dma_buf = sim_dmabuf_map,
	.unmap_dma_buf = sim_dmabuf_unmap,
	.mmap = sim_dmabuf_mmap,
	.release = sim_dmabuf_release,
};

/* Buffer of a dma-buf of this module, NULL for any other. The caller holds the dma-buf. */
static struct sim_bo *sim_dmabuf_bo(struct dma_buf *buf)
{
	return buf->ops == &sim_dmabuf_ops ? buf->priv : NULL;
}

/* kfd_mem_export_dmabuf() makes it once per allocation and keeps it */
int amdgpu_amdkfd_gpuvm_export_dmabuf(struct kgd_mem *mem, struct dma_buf **dmabuf)
{
	struct sim_bo *bo = to_sim_bo(mem->bo);
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	int r = 0;

	if (bo->kind != SIM_BO_PAGED)
		return -EINVAL;
	mutex_lock(&mem->lock);
	if (!mem->dmabuf) {
		struct dma_buf *buf;

		info.ops = &sim_dmabuf_ops;
		info.size = bo->size;
		info.flags = O_RDWR;
		info.priv = sim_bo_get(bo);
		buf = dma_buf_export(&info);
		if (IS_ERR(buf)) {
			sim_bo_put(bo);
			r = PTR_ERR(buf);
			goto out;
		}
		mem->dmabuf = buf;
	}
	get_dma_buf(mem->dmabuf);
	*dmabuf = mem->dmabuf;
out:
	mutex_unlock(&mem->lock);
	return r;
}

int amdgpu_amdkfd_gpuvm_import_dmabuf_fd(struct amdgpu_device *adev, int fd, uint64_t va,
					 void *drm_priv, struct kgd_mem **mem, uint64_t *size,
					 uint64_t *mmap_offset)
{
	struct dma_buf *buf = dma_buf_get(fd);
	struct sim_bo *bo;
	int r = -EINVAL;

	if (IS_ERR(buf))
		return PTR_ERR(buf);
	bo = sim_dmabuf_bo(buf);
	if (!bo)
		goto err;
	r = -ENOMEM;
	*mem = sim_mem_create(drm_priv_to_vm(drm_priv)->process_info, bo);
	if (!*mem)
		goto err;
	sim_bo_get(bo);
	(*mem)->va = va;
	(*mem)->dmabuf = buf;
	(*mem)->is_imported = true;
	(*mem)->domain = bo->bo.preferred_domains;
	(*mem)->alloc_flags = KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE |
			      KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE |
			      (bo->charged_vram ? KFD_IOC_ALLOC_MEM_FLAGS_VRAM :
						  KFD_IOC_ALLOC_MEM_FLAGS_GTT);
	sim_mem_list(*mem, false);
	if (size)
		*size = bo->size;
	if (mmap_offset)
		*mmap_offset = bo->mmap_offset;
	return 0;

err:
	dma_buf_put(buf);
	return r;
}

int amdgpu_amdkfd_get_dmabuf_info(struct amdgpu_device *adev, int dma_buf_fd,
				  struct amdgpu_device **dmabuf_adev, uint64_t *bo_size,
				  void *metadata_buffer, size_t buffer_size,
				  uint32_t *metadata_size, uint32_t *flags, int8_t *xcp_id)
{
	struct dma_buf *buf = dma_buf_get(dma_buf_fd);
	struct sim_bo *bo;

	if (IS_ERR(buf))
		return PTR_ERR(buf);
	bo = sim_dmabuf_bo(buf);
	if (bo) {
		if (dmabuf_adev)
			*dmabuf_adev = &bo->gpu->adev;
		if (bo_size)
			*bo_size = bo->size;
		/* tiling of graphics buffers, which there are none of */
		if (metadata_size)
			*metadata_size = 0;
		if (flags)
			*flags = bo->charged_vram ? KFD_IOC_ALLOC_MEM_FLAGS_VRAM |
						    KFD_IOC_ALLOC_MEM_FLAGS_PUBLIC :
						    KFD_IOC_ALLOC_MEM_FLAGS_GTT;
		if (xcp_id)
			*xcp_id = 0;
	}
	dma_buf_put(buf);
	return bo ? 0 : -EINVAL;
}
